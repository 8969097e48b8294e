"""The input line above a table: it filters the table's rows, or finds the next row with a text."""

import asyncio
from typing import TYPE_CHECKING, ClassVar, Literal

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Label, Static

if TYPE_CHECKING:
    from nanoflux_tui.widgets.window_table import WindowTable

TYPING_PAUSE_S = 0.2
"""Seconds without a key press after which the words are applied."""
Purpose = Literal["filter", "find"]
"""What the words in the line are for: to filter the rows, or to find the next row that contains the words."""
HINTS = {
    "filter": "show the rows that contain all these words; Esc shows all rows",
    "find": "Enter goes to the next row that contains all these words; Esc closes",
}
"""The text that the empty input shows, by purpose."""


class TableLine(Horizontal):
    """The input line of one table, for a filter or for a text to find."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Close", show=False)]
    DEFAULT_CSS = """
    TableLine { height: 1; background: $panel; }
    TableLine Label { color: $secondary; margin: 0 1; }
    TableLine Input { width: 1fr; }
    TableLine Static { width: auto; margin: 0 1; color: $muted; }
    """

    def __init__(self, table: "WindowTable", purpose: Purpose, words: str = "") -> None:
        super().__init__()
        self.table, self.purpose, self._words = table, purpose, words

    def compose(self) -> ComposeResult:
        yield Label(self.purpose)
        yield Input(self._words, placeholder=HINTS[self.purpose], compact=True, select_on_focus=False)
        yield Static("", markup=False, classes="count")

    def show_count(self, text: str) -> None:
        """Show a text at the end of the line, such as the number of rows that match."""
        self.query_one(".count", Static).update(text)

    @on(Input.Changed)
    def _apply_change(self, event: Input.Changed) -> None:
        event.stop()
        if event.value != self._words:
            self._words = event.value
            self._apply(event.value)

    @work(group="apply", exclusive=True, exit_on_error=False)
    async def _apply(self, words: str) -> None:
        """Filter the table or find a row, once the user has stopped typing for `TYPING_PAUSE_S`."""
        await asyncio.sleep(TYPING_PAUSE_S)
        if self.purpose == "filter":
            self.table.filter_rows(words)
        elif words.strip():
            await self._find(words, include_current=True)

    @on(Input.Submitted)
    async def _submit(self, event: Input.Submitted) -> None:
        """In a find line, find the next row. In a filter line, filter the rows at once and return to the table; close
        the line if it has no words.
        """
        event.stop()
        if self.purpose == "find":
            await self._find(event.value, include_current=False)
            return
        self.table.filter_rows(event.value)
        self.table.focus()
        if not event.value.strip():
            await self.remove()

    async def _find(self, words: str, include_current: bool) -> None:
        """Move the table's cursor to the next row with all words, or show that there is none."""
        was_found = await self.table.find_row(words, include_current)
        self.show_count("" if was_found else "no row contains this")

    def action_close(self) -> None:
        if self.purpose == "filter":
            self.table.filter_rows("")
        self.table.focus()
        self.remove()
