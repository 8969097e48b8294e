"""The attempts of a run, kept or rejected. Enter opens an attempt with its replies and its raw calls."""

from collections.abc import Sequence
from typing import ClassVar, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.run.attempts import AttemptKey, list_attempts, load_turns
from nanoflux_local.transcript import OUTCOMES, Attempt
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.screens.attempt import AttemptScreen
from nanoflux_tui.text import format_line, format_quantity
from nanoflux_tui.theme import describe_outcome
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.window_table import WindowTable


class AttemptsScreen(BaseScreen):
    """All attempts of one run."""

    mode = "home"
    HELP = """All attempts of a run, the newest last: kept questions, and those that were rejected, could not be read or
were answered correctly. r shows only the attempts with one outcome; press it again for the next outcome. Enter opens an
attempt: every reply with its verdicts, and the requests and replies as they were sent."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("r", "outcome", "Outcome"),
    ]
    DEFAULT_CSS = "AttemptsScreen #caption { height: 1; padding: 0 1; color: $muted; }"

    def __init__(self, run: str, first_turn: int | None = None) -> None:
        """At first, the cursor is at the turn `first_turn`; if it is None, at the first attempt."""
        super().__init__()
        self._run, self._outcome_filter = run, ""
        self._first_turn = first_turn

    def compose_body(self) -> ComposeResult:
        columns = (
            Column("turn", 5, right=True),
            Column("attempt", 7, right=True),
            Column("outcome", 21),
            Column("reason", 16, share=2, from_width=100),
            Column("question", 20, share=4),
        )
        yield Static("", id="caption", markup=False)
        yield WindowTable(columns, self._fetch_rows, id="attempts", empty="No attempt with this outcome.")

    async def load(self) -> None:
        run = self._run
        outcomes = [self._outcome_filter] if self._outcome_filter else []
        keys = await self.read_ledger(lambda view: list_attempts(view, run, outcomes)) or []
        selected_key = None if self._first_turn is None else (self._first_turn, 0)
        await self.query_one(WindowTable).show(keys, selected_key)
        self._first_turn = None  # later refreshes leave the cursor where the user moved it
        filter_note = f", {describe_outcome(self._outcome_filter)[0]}" if self._outcome_filter else ""
        self.query_one("#caption", Static).update(
            f"{format_quantity(len(keys), 'attempt')} of {format_line(run, 60)}{filter_note}"
        )

    async def _fetch_rows(self, keys: Sequence[AttemptKey]) -> list[Cells]:
        turn_numbers = sorted({turn_number for turn_number, _ in keys})

        def read_attempts(view: LedgerView) -> dict[AttemptKey, Attempt]:
            attempt_by_key: dict[AttemptKey, Attempt] = {}
            for turn_number, record in load_turns(view, self._run, turn_numbers).items():
                attempt_by_key.update({(turn_number, attempt.number): attempt for attempt in record.attempts})
            return attempt_by_key

        attempt_by_key = await self.read_ledger(read_attempts) or {}
        return [self._format_cells(key, attempt_by_key[key]) if key in attempt_by_key else ["deleted"] for key in keys]

    def _format_cells(self, key: AttemptKey, attempt: Attempt) -> Cells:
        outcome, colour = describe_outcome(attempt.outcome)
        question = attempt.attack.question if attempt.attack else "–"
        turn_number, attempt_number = key
        return [
            str(turn_number),
            str(attempt_number),
            Text(outcome, style=self.colours[colour]),
            format_line(attempt.reason, 200),
            format_line(question, 300),
        ]

    async def action_outcome(self) -> None:
        """Show only the attempts with the next outcome that occurs in the run; after the last outcome, show all
        attempts.
        """
        count_by_outcome = await self.read_ledger(lambda view: view.funnel(self._run)) or {}
        outcome_filters = ["", *(outcome for outcome in OUTCOMES if count_by_outcome.get(outcome))]
        position = outcome_filters.index(self._outcome_filter) if self._outcome_filter in outcome_filters else 0
        self._outcome_filter = outcome_filters[(position + 1) % len(outcome_filters)]
        self.reload()

    @on(WindowTable.RowSelected)
    def _open_attempt(self) -> None:
        table = self.query_one(WindowTable)
        keys = cast("Sequence[AttemptKey]", table.keys)  # in the order that the user sees
        self.app.push_screen(AttemptScreen(self._run, keys, table.cursor))
