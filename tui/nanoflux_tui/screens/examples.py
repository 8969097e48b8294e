"""Examples: tens of thousands of rows, filtered as one types, each with everything that made it."""

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
from nanoflux_tui.look import OUTCOMES
from nanoflux_tui.room import Room
from nanoflux_tui.screens.example import ExampleRoom
from nanoflux_tui.text import harmless, line
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

TYPED_S = 0.2
REASONS = ("", "kept_failed", "kept_novel")
SHOWN_REASON = {"": "all", "kept_failed": "where the defender failed", "kept_novel": "solved in a new way"}


class ExamplesRoom(Room):
    """The examples of one run, or of all."""

    mode = "examples"
    HELP = """Every example that was kept, of all runs or of the one that you came from. Type after / to filter:
every word must occur in the question, the solution or the answer. Enter opens an example with all that made
it; there, k keeps it, d drops it, f marks it to be fixed, and u takes the last word back."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Filter", key_display="/"),
        Binding("r", "reason", "Why kept"),
        Binding("escape", "back", "Back", show=False),
    ]
    DEFAULT_CSS = """
    ExamplesRoom #search { height: 1; margin: 0 1; }
    ExamplesRoom #found { height: 1; padding: 0 1; color: $muted; }
    ExamplesRoom #list { width: 1fr; }
    """

    def __init__(self, run: str = "") -> None:
        super().__init__()
        self._run = run
        self._reason = ""
        self._words = ""
        self._keys: array[int] = array("q")

    def body(self) -> ComposeResult:
        columns = (
            Column("turn", 5, right=True),
            Column("kept because", 13, from_width=66),
            Column("level", 5, from_width=84),
            Column("review", 6, from_width=52),
            Column("answer", 10, share=1),
            Column("question", 20, share=6),
            Column("run", 20, from_width=110),
        )
        yield Input(placeholder="/ filters: words of a question, a solution or an answer", compact=True, id="search")
        yield Static("", id="found", markup=False)
        with Horizontal():
            with Vertical(id="list"):
                yield WindowTable(columns, self._rows, id="examples")
            with VerticalScroll(classes="side"):
                yield Panel(id="preview", classes="plain")

    async def load(self) -> None:
        run, words, reason = self._run, self._words, self._reason
        self._keys = await self.ask(lambda view: board.example_keys(view, run, words, reason)) or array("q")
        await self.query_one(WindowTable).show(self._keys)
        many = len(self._keys)
        whose = f"of {line(run, 60)}" if run else "of all runs"
        kind = f", {SHOWN_REASON[reason]}" if reason else ""
        nothing = "nothing answers to this filter" if words or reason else "nothing was kept yet"
        self._preview()
        caption = f"{many:,} examples {whose}{kind}" if many else f"{nothing} ({whose}{kind})"
        self.query_one("#found", Static).update(caption)

    async def _rows(self, keys: Sequence[int]) -> list[Cells]:
        wanted = list(keys)
        row_by_key = await self.ask(lambda view: board.example_rows(view, wanted)) or {}
        return [self._cells(row_by_key[key]) if key in row_by_key else ["gone"] for key in keys]

    def _cells(self, row: dict[str, Any]) -> Cells:
        reason, colour = OUTCOMES.get(row["reason"], (row["reason"], "foreground"))
        short = {"kept_failed": "✓ failed it", "kept_novel": "✓ new way"}.get(row["reason"], reason)
        return [
            str(row["turn"]),
            Text(str(short), style=self.ink[colour]),
            f"L{row['level']}" if row["level"] else "–",
            line(row["review"] or "", 20),
            line(row["answer"], 60),
            line(row["question"], 300),
            line(row["run"], 40),
        ]

    @on(Input.Changed, "#search")
    def _filter_as_typed(self, event: Input.Changed) -> None:
        self._filter(event.value)

    @work(group="filter", exclusive=True, exit_on_error=False)
    async def _filter(self, words: str) -> None:
        """Filter by what was typed, once the fingers rest for a moment."""
        await asyncio.sleep(TYPED_S)
        self._words = words
        await self.refreshed()

    @on(Input.Submitted, "#search")
    def _to_the_list(self) -> None:
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

    @on(WindowTable.Chosen)
    def _open(self) -> None:
        table = self.query_one(WindowTable)
        self.app.push_screen(ExampleRoom(self._keys, table.cursor), self._came_back)

    def _came_back(self, _: None) -> None:
        self.reload()

    @on(WindowTable.Pointed)
    def _preview(self) -> None:
        if self.size.width >= 100:
            self._show_preview(self.query_one(WindowTable).key)

    @work(group="preview", exclusive=True, exit_on_error=False)
    async def _show_preview(self, key: int | None) -> None:
        panel = self.query_one("#preview", Panel)
        if key is None:
            panel.show("")
            return
        try:
            example = await self.ask(lambda view: board.example_whole(view, key))
        except NanofluxError as error:
            self.tell(error)
            return
        if example is not None:
            panel.show(self._preview_text(example))

    def _preview_text(self, example: dict[str, Any]) -> Text:
        text = Text()
        for title, key in (("Question", "question"), ("Solution", "solution"), ("Answer", "answer")):
            text.append(f"{title}\n", style=f"bold {self.ink['secondary']}")
            text.append(f"{harmless(example[key], 3_000)}\n\n")
        return text
