"""Examples: a table of all kept examples, with filters and the review queue."""

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Static

from nanoflux_local.errors import NanofluxError
from nanoflux_local.ledger import board
from nanoflux_local.ledger.board import ExampleSelection
from nanoflux_local.transcript import KEPT
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.screens.example import ExampleScreen
from nanoflux_tui.text import format_line, format_quantity, sanitize
from nanoflux_tui.theme import describe_outcome, describe_reason
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

REASON_NAMES: dict[str, str] = {"": "", **{str(reason): describe_reason(reason) for reason in KEPT}}
"""The filters by reason that r applies one after the other, with their words in the caption; "" is no filter."""
REVIEW_NAMES = {
    "": "",
    "none": "no review",
    "keep": "review: keep",
    "drop": "review: drop",
    "fix": "review: fix",
}
"""The filters by review that v applies one after the other, with their words in the caption; "" is no filter."""
PREVIEW_FROM_WIDTH = 100
"""The width in cells from which the screen shows a preview of the selected example."""


class ExamplesScreen(BaseScreen):
    """The kept examples of the run `run`, or of all runs if it is ""."""

    mode = "examples"
    HELP = """The kept examples of all runs, or of the run that you came from. Press / and type to filter: every word
must occur in the question, the solution or the answer. r shows the examples kept for one reason, v those with one
review or without any. Enter opens an example in full; there, k keeps it, d drops it, f marks it for fixing, and u
undoes your last review. w opens the examples without a review one after the other."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "reason", "Reason"),
        Binding("v", "review_filter", "Reviews"),
        Binding("w", "queue", "Review queue"),
        Binding("escape", "back", "Back", show=False),
    ]
    DEFAULT_CSS = """
    ExamplesScreen #caption { height: 1; padding: 0 1; color: $muted; }
    ExamplesScreen #list { width: 1fr; }
    """

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self._run = run
        self._reason_filter = self._review_filter = ""
        self._keys: array[int] = array("q")

    def compose_body(self) -> ComposeResult:
        run_column = [] if self._run else [Column("run", 12, share=1, from_width=55)]
        columns = (
            Column("turn", 5, right=True),
            Column("reason", 17, from_width=60 if self._run else 72),
            Column("pass", 4, from_width=68 if self._run else 92),
            Column("level", 5, from_width=84 if self._run else 104),
            Column("review", 6, from_width=52),
            Column("answer", 6, share=1),
            *run_column,
            Column("question", 14, share=6),
        )
        yield Static("", id="caption", markup=False)
        with Horizontal():
            with Vertical(id="list"):
                yield WindowTable(columns, self._fetch_rows, id="examples", match=self._find_matching_keys)
            with VerticalScroll(classes="side", can_focus=False):
                yield Panel(id="preview", classes="plain")

    async def load(self) -> None:
        table, selection = self.query_one(WindowTable), self._build_selection()
        self._keys = await self.read_ledger(lambda view: board.list_example_keys(view, selection)) or array("q")
        await table.show(self._keys)
        example_count = len(self._keys)
        scope = f"from {format_line(self._run, 60)}" if self._run else "from all runs"
        filter_names = [REASON_NAMES[self._reason_filter], REVIEW_NAMES[self._review_filter]]
        filter_note = "".join(f", {name}" for name in filter_names if name)
        is_filtered = selection.words or self._reason_filter or self._review_filter
        self._update_preview()
        if example_count:
            caption = f"{format_quantity(example_count, 'example')} {scope}{filter_note}"
        else:
            empty_text = "No example matches this filter" if is_filtered else "No example has been kept yet"
            caption = f"{empty_text} ({scope}{filter_note})"
        self.query_one("#caption", Static).update(caption)

    async def _find_matching_keys(self, words: str) -> Sequence[int]:
        """The keys of the listed examples with all these words in their question, solution or answer. The words need
        not all occur in the same one of these texts.
        """
        current_selection = self._build_selection()
        selection = replace(current_selection, words=f"{current_selection.words} {words}")
        return await self.read_ledger(lambda view: board.list_example_keys(view, selection)) or array("q")

    def _build_selection(self) -> ExampleSelection:
        """The examples that the filters select, in the order of the table's sorted column."""
        table = self.query_one(WindowTable)
        arrangement = table.arrangement
        return ExampleSelection(
            self._run,
            arrangement.words,
            self._reason_filter,
            self._review_filter,
            table.sorted_title,
            arrangement.descending,
        )

    @on(WindowTable.Rearranged)
    def _reload_rearranged(self) -> None:
        self.reload()

    async def _fetch_rows(self, keys: Sequence[int]) -> list[Cells]:
        fetched_keys = list(keys)
        line_by_key = await self.read_ledger(lambda view: board.load_example_lines(view, fetched_keys)) or {}
        return [self._format_cells(line_by_key[key]) if key in line_by_key else ["deleted"] for key in keys]

    def _format_cells(self, line: board.ExampleLine) -> Cells:
        _, colour = describe_outcome(line.reason)
        run_cells = [] if self._run else [format_line(line.run_name or line.run, 40)]
        return [
            str(line.turn),
            Text(f"✓ {describe_reason(line.reason)}", style=self.colours[colour]),
            "–" if line.tries is None else f"{line.passes}/{line.tries}",
            f"L{line.level}" if line.level else "–",
            format_line(line.review or "", 20),
            format_line(line.answer, 60),
            *run_cells,
            format_line(line.question, 300),
        ]

    def action_reason(self) -> None:
        self._reason_filter = _choose_next_key(REASON_NAMES, self._reason_filter)
        self.reload()

    def action_review_filter(self) -> None:
        self._review_filter = _choose_next_key(REVIEW_NAMES, self._review_filter)
        self.reload()

    async def action_queue(self) -> None:
        """Open the review queue at the first example without a review, counted from the cursor. After the last example,
        the search continues from the first.
        """
        keys, position = list(self._keys), self.query_one(WindowTable).cursor
        keys_from_cursor = [*keys[position:], *keys[:position]]
        unreviewed = await self.read_ledger(lambda view: board.find_unreviewed(view, keys_from_cursor))
        if unreviewed is None:
            self.notify("Every example in this list has a review." if keys else "This list is empty.")
            return
        screen = ExampleScreen(keys, keys.index(unreviewed), in_queue=True)
        self.app.push_screen(screen, self._reload_after_example)

    @on(WindowTable.RowSelected)
    def _open_example(self) -> None:
        table = self.query_one(WindowTable)
        self.app.push_screen(ExampleScreen(self._keys, table.cursor), self._reload_after_example)

    def _reload_after_example(self, _: None) -> None:
        self.reload()

    @on(WindowTable.RowHighlighted)
    def _update_preview(self) -> None:
        if self.size.width >= PREVIEW_FROM_WIDTH:
            self._show_preview(self.query_one(WindowTable).selected_key)

    @work(group="preview", exclusive=True, exit_on_error=False)
    async def _show_preview(self, key: int | None) -> None:
        panel = self.query_one("#preview", Panel)
        if key is None:
            panel.show("")
            return
        try:
            example = await self.read_ledger(lambda view: board.load_example(view, key))
        except NanofluxError as error:
            self.show_error(error)
            return
        if example is not None:
            panel.show(self._format_preview(example))

    def _format_preview(self, example: board.FullExample) -> Text:
        text = Text()
        parts = (("Question", example.question), ("Solution", example.solution), ("Answer", example.answer))
        for title, part in parts:
            text.append(f"{title}\n", style=f"bold {self.colours['secondary']}")
            text.append(f"{sanitize(part, 3_000)}\n\n")
        return text


def _choose_next_key(names: dict[str, str], key: str) -> str:
    """The key that follows `key` in `names`; the last key is followed by the first."""
    keys = list(names)
    return keys[(keys.index(key) + 1) % len(keys)]
