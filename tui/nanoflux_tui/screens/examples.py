"""Examples: a table of all kept examples, filtered as the user types."""

import asyncio
from array import array
from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Input, Static

from nanoflux_local.errors import NanofluxError
from nanoflux_local.ledger import board
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.screens.example import ExampleScreen
from nanoflux_tui.text import format_line, sanitize
from nanoflux_tui.theme import OUTCOMES
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

TYPING_PAUSE_S = 0.2
REASONS = ("", "kept_failed", "kept_novel")
REASON_NAMES = {"": "all", "kept_failed": "the defender failed", "kept_novel": "a new solution"}


class ExamplesScreen(BaseScreen):
    """The examples of one run or of all runs."""

    mode = "examples"
    HELP = """The kept examples of all runs, or of the run that you came from. Press / and type to filter: every word
must occur in the question, the solution or the answer. Enter opens an example in full; there, k keeps
it, d drops it, f marks it for fixing, and u undoes your last review."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Filter", key_display="/"),
        Binding("r", "reason", "Reason"),
        Binding("escape", "back", "Back", show=False),
    ]
    DEFAULT_CSS = """
    ExamplesScreen #search { height: 1; margin: 0 1; }
    ExamplesScreen #caption { height: 1; padding: 0 1; color: $muted; }
    ExamplesScreen #list { width: 1fr; }
    """

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self._run = run
        self._reason = ""
        self._filter_text = ""
        self._keys: array[int] = array("q")

    def compose_body(self) -> ComposeResult:
        columns = (
            Column("turn", 5, right=True),
            Column("reason", 14, from_width=66),
            Column("pass", 4, from_width=70),
            Column("level", 5, from_width=84),
            Column("review", 6, from_width=52),
            Column("answer", 10, share=1),
            Column("question", 20, share=6),
            Column("run", 20, from_width=110),
        )
        yield Input(
            placeholder="Press / to filter by words of the question, the solution or the answer",
            compact=True,
            id="search",
        )
        yield Static("", id="caption", markup=False)
        with Horizontal():
            with Vertical(id="list"):
                yield WindowTable(columns, self._rows, id="examples")
            with VerticalScroll(classes="side"):
                yield Panel(id="preview", classes="plain")

    async def load(self) -> None:
        run, words, reason = self._run, self._filter_text, self._reason
        self._keys = await self.read_ledger(lambda view: board.example_keys(view, run, words, reason)) or array("q")
        await self.query_one(WindowTable).show(self._keys)
        total = len(self._keys)
        scope = f"of {format_line(run, 60)}" if run else "of all runs"
        kind = f", {REASON_NAMES[reason]}" if reason else ""
        empty = "No example matches this filter" if words or reason else "No example has been kept yet"
        self._update_preview()
        caption = f"{total:,} examples {scope}{kind}" if total else f"{empty} ({scope}{kind})"
        self.query_one("#caption", Static).update(caption)

    async def _rows(self, keys: Sequence[int]) -> list[Cells]:
        visible = list(keys)
        row_by_key = await self.read_ledger(lambda view: board.example_rows(view, visible)) or {}
        return [self._format_cells(row_by_key[key]) if key in row_by_key else ["deleted"] for key in keys]

    def _format_cells(self, row: dict[str, Any]) -> Cells:
        reason, colour = OUTCOMES.get(row["reason"], (row["reason"], "foreground"))
        short = {"kept_failed": "✓ unsolved", "kept_novel": "✓ new solution"}.get(row["reason"], reason)
        return [
            str(row["turn"]),
            Text(str(short), style=self.colours[colour]),
            "–" if row["tries"] is None else f"{row['passes']}/{row['tries']}",
            f"L{row['level']}" if row["level"] else "–",
            format_line(row["review"] or "", 20),
            format_line(row["answer"], 60),
            format_line(row["question"], 300),
            format_line(row["run"], 40),
        ]

    @on(Input.Changed, "#search")
    def _handle_filter_change(self, event: Input.Changed) -> None:
        self._filter(event.value)

    @work(group="filter", exclusive=True, exit_on_error=False)
    async def _filter(self, words: str) -> None:
        """Apply the filter after a short pause in typing."""
        await asyncio.sleep(TYPING_PAUSE_S)
        self._filter_text = words
        await self.refresh_content()

    @on(Input.Submitted, "#search")
    def _focus_table(self) -> None:
        self.query_one(WindowTable).focus()

    def action_search(self) -> None:
        self.query_one("#search", Input).focus()

    def action_reason(self) -> None:
        self._reason = REASONS[(REASONS.index(self._reason) + 1) % len(REASONS)]
        self.reload()

    def action_back(self) -> None:
        search = self.query_one("#search", Input)
        if search.has_focus or search.value:
            search.value = ""
            self.query_one(WindowTable).focus()
        elif len(self.app.screen_stack) > 1:
            self.app.pop_screen()

    @on(WindowTable.RowSelected)
    def _open(self) -> None:
        table = self.query_one(WindowTable)
        self.app.push_screen(ExampleScreen(self._keys, table.cursor), self._reload_after_example)

    def _reload_after_example(self, _: None) -> None:
        self.reload()

    @on(WindowTable.RowHighlighted)
    def _update_preview(self) -> None:
        if self.size.width >= 100:
            self._show_preview(self.query_one(WindowTable).key)

    @work(group="preview", exclusive=True, exit_on_error=False)
    async def _show_preview(self, key: int | None) -> None:
        panel = self.query_one("#preview", Panel)
        if key is None:
            panel.show("")
            return
        try:
            example = await self.read_ledger(lambda view: board.full_example(view, key))
        except NanofluxError as error:
            self.show_error(error)
            return
        if example is not None:
            panel.show(self._format_preview(example))

    def _format_preview(self, example: dict[str, Any]) -> Text:
        text = Text()
        for title, key in (("Question", "question"), ("Solution", "solution"), ("Answer", "answer")):
            text.append(f"{title}\n", style=f"bold {self.colours['secondary']}")
            text.append(f"{sanitize(example[key], 3_000)}\n\n")
        return text
