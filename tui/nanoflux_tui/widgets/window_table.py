"""A table over as many rows as there are: it is given keys, and asks for the rows that are looked at.

Knows nothing of what stands in a row. A page of rows is asked for when it comes into sight and kept while it is near.
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

from nanoflux_tui.widgets.columns import Cells, Column, row

PAGE, PAGES = 64, 12
Fetch = Callable[[Sequence[Any]], Awaitable[Sequence[Cells]]]


class WindowTable(ScrollView, can_focus=True):
    """Rows by key. `fetch` gives the cells of some keys, in their order; `empty` stands where there are none."""

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
        Binding("enter", "choose", "Open"),
    ]
    cursor: reactive[int] = reactive(0)

    class Pointed(Message):
        """The cursor is on another row."""

        def __init__(self, table: "WindowTable", key: Any) -> None:
            super().__init__()
            self.table, self.key = table, key

        @property
        def control(self) -> "WindowTable":
            return self.table

    class Chosen(Pointed):
        """A row was chosen, by Enter or a click."""

    def __init__(self, columns: Sequence[Column], fetch: Fetch, *, id: str | None = None, empty: str = "") -> None:
        super().__init__(id=id)
        self._empty = empty
        self._columns = tuple(columns)
        self._fetch = fetch
        self._keys: Sequence[Hashable] = ()
        self._rows: dict[int, Cells] = {}
        self._asked: set[int] = set()
        self._pages: list[int] = []

    @property
    def keys(self) -> Sequence[Hashable]:
        return self._keys

    @property
    def key(self) -> Any:
        """The key under the cursor, or None in an empty table."""
        return self._keys[self.cursor] if 0 <= self.cursor < len(self._keys) else None

    async def show(self, keys: Sequence[Hashable]) -> None:
        """Other keys, or the same whose rows may have changed. What is in sight is fetched before anything is shown
        anew; the cursor stays with its key where that is still near.
        """
        first, last = self._in_sight(len(keys))
        wanted = keys[first:last]
        rows = dict(enumerate(await self._fetch(wanted), first)) if len(wanted) else {}
        here = self.key  # only now: keys were pressed while the rows were fetched
        self._keys, self._rows, self._asked, self._pages = keys, rows, set(), []
        self.virtual_size = Size(self.size.width, len(keys) + 1)
        self.cursor = self._place(here)
        self.refresh()

    def _place(self, here: Hashable) -> int:
        """Where the key under the cursor has gone: looked for around it, for there may be a hundred thousand."""
        position: int = self.cursor
        last = max(0, len(self._keys) - 1)
        near: list[int] = [position, *range(max(0, position - 200), min(len(self._keys), position + 200))]
        for index in near:
            if here is not None and index < len(self._keys) and self._keys[index] == here:
                return index
        return min(position, last)

    def _in_sight(self, many: int) -> tuple[int, int]:
        first = max(0, min(int(self.scroll_offset.y), many) - 4)
        return first, min(many, first + max(self.size.height, 12) + 8)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width or self.size.width
        if y == 0:
            style = self.get_component_rich_style("table--head")
            return self._strip([column.title for column in self._columns], width, " ").apply_style(style)
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
            self._want(index // PAGE)
            cells = ["…"]
        return self._strip(cells, width, "▸" if selected else " ").apply_style(style)

    def _strip(self, cells: Cells, width: int, mark: str) -> Strip:
        whole = row(self._columns, cells, width, f"{mark} ")
        return Strip(whole.render(self.app.console)).adjust_cell_length(width)

    def _want(self, page: int) -> None:
        """Ask for a page once; the answer is drawn when it is there."""
        if page not in self._asked:
            self._asked.add(page)
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
            gone = self._pages.pop(0)
            self._asked.discard(gone)
            for index in range(gone * PAGE, gone * PAGE + PAGE):
                self._rows.pop(index, None)
        self.refresh()

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._keys) + 1)

    def watch_cursor(self) -> None:
        self.scroll_to_region(Region(0, self.cursor, 1, 2), animate=False, force=True, immediate=True)
        self.refresh()
        self.post_message(self.Pointed(self, self.key))

    def action_move(self, by: int) -> None:
        self.action_jump(max(0, self.cursor + by))

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 2))

    def action_jump(self, to: int) -> None:
        last = max(0, len(self._keys) - 1)
        self.cursor = last if to < 0 else min(to, last)

    def action_choose(self) -> None:
        if self.key is not None:
            self.post_message(self.Chosen(self, self.key))

    def on_click(self, event: events.Click) -> None:
        index = int(self.scroll_offset.y) + event.y - 1
        if event.y == 0 or index >= len(self._keys):
            return
        again = index == self.cursor
        self.cursor = index
        if again or event.chain > 1:
            self.action_choose()
