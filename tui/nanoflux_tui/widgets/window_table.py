"""A table for any number of rows: it has the keys of all rows, and fetches only the rows that are visible.

The table does not depend on the content of a row. A page of rows is fetched when it becomes visible; the latest pages
are kept.
"""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from nanoflux_tui.widgets.columns import Cells, Column, format_row

PAGE, PAGES = 64, 12
"""The number of rows of a page, and the number of pages that are kept."""
Fetch = Callable[[Sequence[Any]], Awaitable[Sequence[Cells]]]


class WindowTable(ScrollView, can_focus=True):
    """Shows rows by their keys. `fetch` returns the cells of some keys, in the order of the keys; the text `empty` is
    shown if there are no keys.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--head", "table--cursor", "table--faint"}
    DEFAULT_CSS = """
    WindowTable { height: 1fr; background: $background; scrollbar-size-vertical: 1; overflow-x: hidden; }
    WindowTable > .table--head { color: $secondary; text-style: bold; background: $background; }
    WindowTable > .table--cursor { background: $panel; text-style: bold; }
    WindowTable:focus > .table--cursor { background: $primary 25%; text-style: bold; }
    WindowTable > .table--faint { color: $muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "jump(0)", "First", show=False),
        Binding("end", "jump(-1)", "Last", show=False),
        Binding("enter", "select", "Open"),
    ]
    cursor: reactive[int] = reactive(0)

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

    def __init__(self, columns: Sequence[Column], fetch: Fetch, *, id: str | None = None, empty: str = "") -> None:
        super().__init__(id=id)
        self._empty = empty
        self._columns = tuple(columns)
        self._fetch = fetch
        self._keys: Sequence[Hashable] = ()
        self._rows: dict[int, Cells] = {}
        self._requested: set[int] = set()
        self._pages: list[int] = []

    @property
    def keys(self) -> Sequence[Hashable]:
        return self._keys

    @property
    def key(self) -> Any:
        """The key under the cursor, or None in an empty table."""
        return self._keys[self.cursor] if 0 <= self.cursor < len(self._keys) else None

    async def show(self, keys: Sequence[Hashable]) -> None:
        """Show the rows of these keys, or refresh them if the keys are the same. The visible rows are fetched before
        anything is drawn. The cursor stays on its key if the key is still nearby.
        """
        first, last = self._find_visible_range(len(keys))
        visible = keys[first:last]
        rows = dict(enumerate(await self._fetch(visible), first)) if len(visible) else {}
        cursor_key = self.key  # not before the fetch, during which the cursor may have moved
        self._keys, self._rows, self._requested, self._pages = keys, rows, set(), []
        self.virtual_size = Size(self.size.width, len(keys) + 1)
        self.cursor = self._find_row(cursor_key)
        self.refresh()

    def _find_row(self, key: Hashable) -> int:
        """The row of the key that was under the cursor. Only nearby rows are searched, since there may be 100,000."""
        position: int = self.cursor
        last = max(0, len(self._keys) - 1)
        near: list[int] = [position, *range(max(0, position - 200), min(len(self._keys), position + 200))]
        for index in near:
            if key is not None and index < len(self._keys) and self._keys[index] == key:
                return index
        return min(position, last)

    def _find_visible_range(self, total: int) -> tuple[int, int]:
        first = max(0, min(int(self.scroll_offset.y), total) - 4)
        return first, min(total, first + max(self.size.height, 12) + 8)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width or self.size.width
        if y == 0:
            style = self.get_component_rich_style("table--head")
            return self._render_strip([column.title for column in self._columns], width, " ").apply_style(style)
        index = int(self.scroll_offset.y) + y - 1
        if index == 0 and not len(self._keys):
            faint = self.rich_style + self.get_component_rich_style("table--faint", partial=True)
            strip = Strip(Text(f"  {self._empty}", end="").render(self.app.console))
            return strip.adjust_cell_length(width).apply_style(faint)
        if index >= len(self._keys):
            return Strip.blank(width, self.rich_style)
        selected = index == self.cursor
        style = self.get_component_rich_style("table--cursor") if selected else self.rich_style
        cells = self._rows.get(index)
        if cells is None:
            self._request_page(index // PAGE)
            cells = ["…"]
        return self._render_strip(cells, width, "▸" if selected else " ").apply_style(style)

    def _render_strip(self, cells: Cells, width: int, mark: str) -> Strip:
        whole = format_row(self._columns, cells, width, f"{mark} ")
        return Strip(whole.render(self.app.console)).adjust_cell_length(width)

    def _request_page(self, page: int) -> None:
        """Fetch a page in a worker, unless it was already requested. Its rows are drawn when they arrive."""
        if page not in self._requested:
            self._requested.add(page)
            self.run_worker(self._load(page), group=f"{self.id}-{page}", exit_on_error=False)

    async def _load(self, page: int) -> None:
        keys = self._keys
        start = page * PAGE
        rows = await self._fetch(keys[start : start + PAGE])
        if keys is not self._keys:
            return
        self._rows.update(enumerate(rows, start))
        self._pages.append(page)
        while len(self._pages) > PAGES:
            oldest = self._pages.pop(0)
            self._requested.discard(oldest)
            for index in range(oldest * PAGE, oldest * PAGE + PAGE):
                self._rows.pop(index, None)
        self.refresh()

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._keys) + 1)

    def watch_cursor(self) -> None:
        self.scroll_to_region(Region(0, self.cursor, 1, 2), animate=False, force=True, immediate=True)
        self.refresh()
        self.post_message(self.RowHighlighted(self, self.key))

    def action_move(self, by: int) -> None:
        self.action_jump(max(0, self.cursor + by))

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 2))

    def action_jump(self, to: int) -> None:
        last = max(0, len(self._keys) - 1)
        self.cursor = last if to < 0 else min(to, last)

    def action_select(self) -> None:
        if self.key is not None:
            self.post_message(self.RowSelected(self, self.key))

    def on_click(self, event: events.Click) -> None:
        index = int(self.scroll_offset.y) + event.y - 1
        if event.y == 0 or index >= len(self._keys):
            return
        was_current = index == self.cursor
        self.cursor = index
        if was_current or event.chain > 1:
            self.action_select()
