"""The calls of one attempt: the requests and replies that the ledger stores, without secrets."""

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.run.attempts import StoredCall, describe_call, load_calls
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.text import format_count, format_duration, format_line, format_quantity, sanitize
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable


class CallsScreen(BaseScreen):
    """A table of the calls of one attempt, with the request and reply of the selected call below it."""

    mode = "home"
    HELP = """The calls of one attempt in the order in which the turn used them: who asked which model, and the request
and the reply as they are stored. Secrets are replaced by a mark. Up and down select a call; Enter moves to its text,
which the arrow keys then scroll, and Escape returns to the list."""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Back")]
    DEFAULT_CSS = """
    CallsScreen #calls { height: 1fr; min-height: 5; }
    CallsScreen #text { height: 2fr; border-top: solid $border; overflow-y: auto; scrollbar-size-vertical: 1; }
    """

    def __init__(self, run: str, turn: int, attempt: int) -> None:
        super().__init__()
        self._run, self._turn, self._attempt = run, turn, attempt
        self._call_by_key: dict[int, StoredCall] = {}
        """The calls by their keys in the table, which are their positions in the attempt."""

    def compose_body(self) -> ComposeResult:
        columns = (
            Column("role", 9),
            Column("step", 13),
            Column("kind", 6),
            Column("model", 12, share=1),
            Column("prompt", 6, right=True, from_width=70),
            Column("output", 6, right=True, from_width=70),
            Column("time", 6, right=True),
        )
        yield Panel(id="caption", classes="plain")
        yield WindowTable(columns, self._fetch_rows, id="calls", empty="This attempt used no call.")
        with VerticalScroll(id="text"):
            yield Panel(id="detail", classes="plain")

    async def load(self) -> None:
        calls = await self.read_ledger(self._read_calls) or []
        self._call_by_key = dict(enumerate(calls))
        await self.query_one(WindowTable).show(list(self._call_by_key))
        self.query_one("#caption", Panel).show(
            Text(f"turn {self._turn}, attempt {self._attempt}: {format_quantity(len(calls), 'call')}", style="bold")
        )
        self._show_call()

    def _read_calls(self, view: LedgerView) -> list[StoredCall]:
        calls = load_calls(self.home, view, view.find_run(self._run), self._turn)
        return [call for call in calls if call.attempt == self._attempt]

    async def _fetch_rows(self, keys: Sequence[int]) -> list[Cells]:
        return [self._format_cells(self._call_by_key[key]) for key in keys]

    def _format_cells(self, call: StoredCall) -> Cells:
        return [
            format_line(call.role or "–", 20),
            format_line(call.step or "–", 20),
            format_line(call.kind, 20),
            format_line(call.model, 60),
            format_count(call.prompt_tokens),
            format_count(call.completion_tokens),
            format_duration(call.seconds),
        ]

    @on(WindowTable.RowHighlighted)
    def _show_call_from_top(self) -> None:
        """Show the newly selected call, scrolled to the start of its text."""
        self.query_one("#text").scroll_home(animate=False)
        self._show_call()

    def _show_call(self) -> None:
        """Show the request and the reply of the call under the cursor."""
        call = self._call_by_key.get(self.query_one(WindowTable).selected_key)
        if call is None:
            self.query_one("#detail", Panel).show("")
            return
        request, reply = describe_call(call.kind, call.request, call.reply)
        heading = f"bold {self.colours['secondary']}"
        self.query_one("#detail", Panel).show(
            Text.assemble(("Request\n", heading), sanitize(request), ("\n\nReply\n", heading), sanitize(reply))
        )

    @on(WindowTable.RowSelected)
    def _focus_text(self) -> None:
        self.query_one("#text").focus()

    def action_back(self) -> None:
        """Return from the text of a call to the table; from the table, close the screen."""
        if self.query_one("#text").has_focus:
            self.query_one(WindowTable).focus()
        else:
            super().action_back()
