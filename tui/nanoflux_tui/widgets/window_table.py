"""A table for any number of rows. It has the keys of all rows, and fetches the cells of the visible rows only.

A page of rows is fetched when one of its rows becomes visible; the latest pages are kept. To filter, sort or search the
rows, the table fetches all of them, unless its screen does this for it.
"""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from nanoflux_tui.keymap import name_bindings
from nanoflux_tui.widgets.arrangement import Arrangement, arrange_keys, row_matches
from nanoflux_tui.widgets.columns import Cells, Column, compute_widths, format_row
from nanoflux_tui.widgets.table_line import Purpose, TableLine

PAGE_ROWS = 64
"""The number of rows of a page."""
KEPT_PAGES = 12
"""The number of pages whose rows are kept; the page that was fetched first is dropped first."""
BATCH_ROWS = 512
"""The number of rows that are fetched at once to filter, sort or search all rows."""
SEARCHED_DISTANCE = 200
"""Number of rows before and after the cursor in which a refresh looks for the key that was under the cursor."""
LOADING = "loading…"
"""The text of a table before the first call of `show`."""
Match = Callable[[str], Awaitable[Sequence[Hashable]]]
"""Returns the keys of the rows that contain all words of a text."""
Fetch = Callable[[Sequence[Any]], Awaitable[Sequence[Cells]]]
"""Returns the cells of the rows with the given keys, in the same order."""


class WindowTable(ScrollView, can_focus=True):
    """Shows the rows of a sequence of keys, and fetches their cells with `fetch`. Without keys, the text `empty` is
    shown.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--head", "table--cursor", "table--faint"}
    DEFAULT_CSS = """
    WindowTable { height: 1fr; background: $background; scrollbar-size-vertical: 1; overflow-x: hidden; }
    WindowTable > .table--head { color: $secondary; text-style: bold; background: $background; }
    WindowTable > .table--cursor { background: $panel; text-style: bold; }
    WindowTable:focus > .table--cursor { background: $primary 25%; text-style: bold; }
    WindowTable > .table--faint { color: $muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = name_bindings(
        "table",
        [
            Binding("up,k", "move(-1)", "Up", show=False),
            Binding("down,j", "move(1)", "Down", show=False),
            Binding("pageup", "page(-1)", "Page up", show=False),
            Binding("pagedown", "page(1)", "Page down", show=False),
            Binding("home", "jump(0)", "First", show=False),
            Binding("end", "jump(-1)", "Last", show=False),
            Binding("enter", "select", "Open"),
            Binding("slash", "filter", "Filter", key_display="/"),
            Binding("ctrl+f", "find", "Find"),
            Binding("o", "sort", "Sort"),
            Binding("O", "reverse", "Reverse"),
        ],
    )
    cursor: reactive[int] = reactive(0)
    """The position of the row under the cursor."""

    class RowHighlighted(Message):
        """The cursor moved to another row."""

        def __init__(self, table: "WindowTable", key: Any) -> None:
            super().__init__()
            self.table, self.key = table, key

        @property
        def control(self) -> "WindowTable":
            return self.table

    class RowSelected(RowHighlighted):
        """A row was selected with Enter or a click."""

    class Rearranged(Message):
        """The user chose a different filter or order for a table whose screen arranges the rows."""

    def __init__(
        self,
        columns: Sequence[Column],
        fetch: Fetch,
        *,
        id: str | None = None,
        empty: str = "",
        match: Match | None = None,
    ) -> None:
        """If there is a `match`, the screen arranges the rows instead of the table: the screen passes keys to `show`
        that are already filtered and sorted, and `match` finds the rows that contain all words of a text.
        """
        super().__init__(id=id)
        self.arrangement = Arrangement()
        self._match = match
        self._source_keys: Sequence[Hashable] = ()
        """The keys that the screen passed to `show`, before the table has filtered and sorted them."""
        self._last_show = 0  # the number of the latest call of `show`
        self._is_loaded = False
        self._empty = empty
        self._columns = tuple(columns)
        self._fetch = fetch
        self._keys: Sequence[Hashable] = ()
        """The keys of the table's rows, in the order on the screen."""
        self._rows: dict[int, Cells] = {}
        """The rows that have been fetched, by their positions."""
        self._requested_pages: set[int] = set()
        self._loaded_pages: list[int] = []
        """The numbers of the pages that have been fetched, in the order of their arrival."""

    @property
    def keys(self) -> Sequence[Hashable]:
        return self._keys

    @property
    def selected_key(self) -> Any:
        """The key under the cursor, or None in an empty table."""
        return self._keys[self.cursor] if 0 <= self.cursor < len(self._keys) else None

    @property
    def sorted_title(self) -> str:
        """The title of the column that the user sorted by, or ""."""
        column = self.arrangement.column
        return "" if column is None else self._columns[column].title

    async def show(self, keys: Sequence[Hashable], selected_key: Hashable = None) -> None:
        """Show the rows of these keys in the current arrangement. The visible rows are fetched before they are drawn.
        The cursor moves to `selected_key` if the table lists that key; otherwise it stays on its current key.
        """
        self._source_keys = keys
        self._last_show += 1
        show_number = self._last_show
        if self._match is None and self.arrangement != Arrangement():
            keys = await self._arrange(keys)
        start, end = self._find_visible_range(len(keys))
        visible_keys = keys[start:end]
        rows = dict(enumerate(await self._fetch(visible_keys), start)) if len(visible_keys) else {}
        if show_number != self._last_show:  # a later call has newer keys or a different arrangement
            return
        cursor_key = self.selected_key  # read only now, since the cursor may have moved during the fetch
        self._is_loaded = True
        self._keys, self._rows, self._requested_pages, self._loaded_pages = keys, rows, set(), []
        self.virtual_size = Size(self.size.width, len(keys) + 1)
        if selected_key is not None and selected_key in keys:
            self.cursor = keys.index(selected_key)
        else:
            self.cursor = self._find_position(cursor_key)
        self.refresh()
        self._show_count()

    async def _arrange(self, keys: Sequence[Hashable]) -> list[Hashable]:
        """Fetch all rows, and return the keys of those that the arrangement selects, in its order."""
        rows: list[Cells] = []
        for start in range(0, len(keys), BATCH_ROWS):
            rows += await self._fetch(keys[start : start + BATCH_ROWS])
        return arrange_keys(keys, rows, self.arrangement)

    def _show_count(self) -> None:
        """Show in the input line how many rows the filter selects."""
        for line in self._find_input_lines():
            if self.arrangement.words:
                total_note = "" if self._match else f" of {len(self._source_keys):,}"
                line.show_count(f"{len(self._keys):,}{total_note}")

    def _find_input_lines(self) -> list[TableLine]:
        """The input lines of this table that are open."""
        return [line for line in self.screen.query(TableLine) if line.table is self]

    def filter_rows(self, words: str) -> None:
        """Show only the rows that contain every word; "" shows all rows."""
        self._rearrange(replace(self.arrangement, words=words.strip()))

    def sort_by(self, column: int | None, descending: bool = False) -> None:
        """Sort the rows by a column; None restores the order in which the screen listed them."""
        self._rearrange(replace(self.arrangement, column=column, descending=descending))

    def clear_filter(self) -> bool:
        """Show all rows again, and close the table's input lines. Returns whether there was a filter or a line."""
        lines = self._find_input_lines()
        for line in lines:
            line.remove()
        if self.arrangement.words:
            self.filter_rows("")
        elif not lines:
            return False
        self.focus()
        return True

    def _rearrange(self, arrangement: Arrangement) -> None:
        """Show the rows in a new arrangement, or let the screen arrange them."""
        if arrangement == self.arrangement:
            return
        self.arrangement = arrangement
        if self._match is not None:
            self.post_message(self.Rearranged())
        else:
            self.run_worker(
                self.show(self._source_keys, self.selected_key), group=f"arrange-{self.id}", exit_on_error=False
            )
        self.refresh()

    async def find_row(self, words: str, include_current: bool = False) -> bool:
        """Move the cursor to the next row that contains every word; after the last row, the search continues from the
        first. Returns whether there is such a row.
        """
        keys, row_count = self._keys, len(self._keys)
        start = self.cursor if include_current else self.cursor + 1
        positions = [position % row_count for position in range(start, start + row_count)]
        if self._match is not None:
            matching_keys = set(await self._match(words))
            for position in positions:
                if keys[position] in matching_keys:
                    self.cursor = position
                    return True
            return False
        for batch_start in range(0, row_count, BATCH_ROWS):
            batch = positions[batch_start : batch_start + BATCH_ROWS]
            rows = await self._fetch([keys[position] for position in batch])
            for position, row in zip(batch, rows, strict=True):
                if row_matches(row, words) and keys is self._keys:  # the keys may have changed during the fetch
                    self.cursor = position
                    return True
        return False

    def _find_position(self, key: Hashable) -> int:
        """The position of `key`, which was under the cursor before a refresh. If the key is no longer near the cursor,
        the position of the cursor. Only rows near the cursor are searched, since a table may have 100,000 rows.
        """
        cursor, row_count = int(self.cursor), len(self._keys)
        start, end = max(0, cursor - SEARCHED_DISTANCE), min(row_count, cursor + SEARCHED_DISTANCE)
        candidates: list[int] = [cursor, *range(start, end)]
        for position in candidates:
            if key is not None and position < row_count and self._keys[position] == key:
                return position
        return min(cursor, max(0, row_count - 1))

    def _find_visible_range(self, row_count: int) -> tuple[int, int]:
        """The range (start, end) of the positions that are visible in a table with `row_count` rows, and of a few rows
        above and below.
        """
        start = max(0, min(int(self.scroll_offset.y), row_count) - 4)
        return start, min(row_count, start + max(self.size.height, 12) + 8)

    def read_visible_rows(self) -> list[str]:
        """The titles and the visible rows of the table, each as a line of text."""
        lines = [self.render_line(y).text.rstrip() for y in range(self.size.height)]
        return lines[: len(self._keys) + 1]

    def render_line(self, y: int) -> Strip:
        """Draw the line `y` of the table: the titles, a row, or a message if there are no rows."""
        width = self.scrollable_content_region.width or self.size.width
        if y == 0:
            style = self.get_component_rich_style("table--head")
            return self._render_strip(self._format_titles(), width, " ").apply_style(style)
        index = int(self.scroll_offset.y) + y - 1
        if index == 0 and not len(self._keys):
            faint_style = self.rich_style + self.get_component_rich_style("table--faint", partial=True)
            if not self._is_loaded:
                message = LOADING
            else:
                message = "No row matches the filter." if self.arrangement.words else self._empty
            strip = Strip(Text(f"  {message}", end="").render(self.app.console))
            return strip.adjust_cell_length(width).apply_style(faint_style)
        if index >= len(self._keys):
            return Strip.blank(width, self.rich_style)
        is_current = index == self.cursor
        style = self.get_component_rich_style("table--cursor") if is_current else self.rich_style
        cells = self._rows.get(index)
        if cells is None:
            self._request_page(index // PAGE_ROWS)
            cells = ["…"]
        return self._render_strip(cells, width, "▸" if is_current else " ").apply_style(style)

    def _format_titles(self) -> list[str]:
        """The titles of the columns. The title of the sorted column ends with an arrow."""
        titles = [column.title for column in self._columns]
        index = self.arrangement.column
        if index is not None:
            arrow = "▼" if self.arrangement.descending else "▲"
            titles[index] = f"{titles[index][: self._columns[index].width - 1]}{arrow}"
        return titles

    def _render_strip(self, cells: Cells, width: int, mark: str) -> Strip:
        row = format_row(self._columns, cells, width, f"{mark} ")
        return Strip(row.render(self.app.console)).adjust_cell_length(width)

    def _request_page(self, page: int) -> None:
        """Fetch a page in a worker, unless it was already requested. Its rows are drawn when they arrive."""
        if page not in self._requested_pages:
            self._requested_pages.add(page)
            self.run_worker(self._load_page(page), group=f"{self.id}-{page}", exit_on_error=False)

    async def _load_page(self, page: int) -> None:
        """Fetch the rows of a page, and drop the oldest page if there are too many."""
        keys = self._keys
        start = page * PAGE_ROWS
        rows = await self._fetch(keys[start : start + PAGE_ROWS])
        if keys is not self._keys:  # `show` was called during the fetch
            return
        self._rows.update(enumerate(rows, start))
        self._loaded_pages.append(page)
        while len(self._loaded_pages) > KEPT_PAGES:
            oldest_page = self._loaded_pages.pop(0)
            self._requested_pages.discard(oldest_page)
            for index in range(oldest_page * PAGE_ROWS, (oldest_page + 1) * PAGE_ROWS):
                self._rows.pop(index, None)
        self.refresh()

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._keys) + 1)

    def watch_cursor(self) -> None:
        """Scroll to the cursor, and report the highlighted row."""
        self.scroll_to_region(Region(0, self.cursor, 1, 2), animate=False, force=True, immediate=True)
        self.refresh()
        if self._is_loaded:
            self.post_message(self.RowHighlighted(self, self.selected_key))

    def action_move(self, offset: int) -> None:
        """Move the cursor down by `offset` rows; a negative offset moves it up."""
        self.action_jump(max(0, self.cursor + offset))

    def action_page(self, offset: int) -> None:
        """Move the cursor down by `offset` times the number of visible rows; a negative offset moves it up."""
        self.action_move(offset * max(1, self.size.height - 2))

    def action_jump(self, row: int) -> None:
        """Move the cursor to a row; a negative number stands for the last row."""
        last = max(0, len(self._keys) - 1)
        self.cursor = last if row < 0 else min(row, last)

    def action_select(self) -> None:
        if self.selected_key is not None:
            self.post_message(self.RowSelected(self, self.selected_key))

    async def action_filter(self) -> None:
        await self._open_line("filter", self.arrangement.words)

    async def action_find(self) -> None:
        await self._open_line("find")

    async def _open_line(self, purpose: Purpose, words: str = "") -> None:
        """Open the input line for `purpose` unless it is open, and focus it before the next key is handled."""
        line = next((line for line in self._find_input_lines() if line.purpose == purpose), None)
        if line is None:
            line = TableLine(self, purpose, words)
            assert isinstance(self.parent, Widget)
            await self.parent.mount(line, before=self)
        self.screen.set_focus(line.query_one(Input))

    def action_sort(self) -> None:
        """Sort by the next visible column; after the last column, restore the order in which the screen listed the
        rows.
        """
        columns: list[int | None] = [None, *(index for index, _ in self._list_visible_columns())]
        current_column = self.arrangement.column if self.arrangement.column in columns else None
        next_position = (columns.index(current_column) + 1) % len(columns)
        self.sort_by(columns[next_position])

    def action_reverse(self) -> None:
        if self.arrangement.column is None:
            self.notify("Sort the table first: press o until the arrow is at the column that you want.")
        else:
            self.sort_by(self.arrangement.column, not self.arrangement.descending)

    def _list_visible_columns(self) -> list[tuple[int, int]]:
        """The index and the width of each column that the table's width allows."""
        width = self.scrollable_content_region.width or self.size.width
        visible_columns = compute_widths(self._columns, width, 2)
        return [(self._columns.index(column), column_width) for column, column_width in visible_columns]

    def _sort_by_clicked_title(self, x: int) -> None:
        """Sort by the column whose title is at the cell `x`. If it is the sorted column already, reverse the order."""
        column_end = 2  # the width of the rows' marks
        for index, width in self._list_visible_columns():
            column_end += width + 2
            if x < column_end:
                was_sorted = self.arrangement.column == index
                self.sort_by(index, was_sorted and not self.arrangement.descending)
                return

    def on_click(self, event: events.Click) -> None:
        """Handle a click: on a title, sort by its column; on a row, move the cursor there, and select the row if it
        already had the cursor or if this is a double click.
        """
        index = int(self.scroll_offset.y) + event.y - 1
        if event.y == 0:
            self._sort_by_clicked_title(event.x)
            return
        if index >= len(self._keys):
            return
        was_current = index == self.cursor
        self.cursor = index
        if was_current or event.chain > 1:
            self.action_select()
