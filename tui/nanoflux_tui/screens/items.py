"""The items of an evaluation, first those that flip against its base. Enter shows an item's replies in both."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nanoflux_local.evaluate.items import (
    FLIP_RULE,
    Flip,
    ItemRecord,
    ItemScore,
    find_base_evaluation,
    find_evaluation,
    list_flips,
    list_items,
    load_item,
    load_questions,
    order_base_first,
)
from nanoflux_local.jobs import EVALUATION, Job, load_job_state
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.transcript import Seed
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.screens.dialogs import TextDialog
from nanoflux_tui.text import format_line, format_quantity, sanitize
from nanoflux_tui.widgets.columns import Cells, Column, SortableCell
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

MAX_REPLY_CHARACTERS = 20_000
"""The maximum length of a reply in the dialog in characters."""


class ItemsScreen(BaseScreen):
    """The items of one evaluation, with their flips against the evaluation `base`. If `base` is "", the untuned model's
    evaluation of the same items is the base, provided that the ledger contains one.
    """

    mode = "evaluation"
    HELP = f"""The items of an evaluation with their share of right replies. Items that flip against the base come
first, lost ones before gained ones. {FLIP_RULE} The base is the evaluation that was marked with space, else that of
the same model without the adapter. Enter shows an item: its question, the expected answer and both replies."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "details", "Details"),
        Binding("escape", "back", "Back"),
    ]

    def __init__(self, evaluation: str, base: str = "") -> None:
        super().__init__()
        self._evaluation, self._base = evaluation, base
        self._evaluation_row: dict[str, Any] = {}
        self._scores: dict[str, ItemScore] = {}  # the keys of this dict and of the next two are item ids
        self._flips: dict[str, Flip] = {}
        self._questions: dict[str, Seed] = {}

    def compose_body(self) -> ComposeResult:
        columns = (
            Column("flip", 8),
            Column("item", 18, share=1),
            Column("base", 5, right=True),
            Column("right", 7, right=True),
            Column("answers read", 14, share=1, from_width=100),
            Column("question", 20, share=4),
        )
        yield Panel(id="caption", classes="plain")
        yield WindowTable(columns, self._fetch_rows, id="items")

    async def load(self) -> None:
        if await self.read_ledger(self._read_evaluation) is None:
            return
        items = [*self._flips, *(item for item in self._scores if item not in self._flips)]
        await self.query_one(WindowTable).show(items)
        self.query_one("#caption", Panel).show(self._format_caption())

    def _read_evaluation(self, view: LedgerView) -> bool:
        """Read the evaluation, its items, and its flips against the base. Returns True, so that the caller can
        distinguish the result from None, which stands for a missing ledger.
        """
        if self._base:
            self._base, self._evaluation = order_base_first(view, [self._base, self._evaluation])
        row = asdict(find_evaluation(view, self._evaluation))
        state = load_job_state(self.home, view, Job(EVALUATION, row["id"]), row)
        self._evaluation_row = {**row, **state.to_json()}
        self._base = self._base or find_base_evaluation(view, row)
        self._scores = {score.item: score for score in list_items(view, self._evaluation)}
        flips = list_flips(view, self._base, self._evaluation) if self._base else []
        self._flips = {flip.item: flip for flip in flips}
        if not self._questions:
            self._questions = load_questions(view, self._evaluation)
        return True

    def _format_caption(self) -> Text:
        """The evaluation's model, adapter, data and state, and how many items it gained and lost against the base."""
        row = self._evaluation_row
        adapter = f" + {row['adapter'][:12]}" if row["adapter"] else ""
        name = f"{format_line(row['model'], 40)}{adapter} on {format_line(row['data'], 40)} {row['split']}"
        text = Text.assemble((f"{row['id']}  ", "bold"), name, "  ", self.colours.format_status(row["status"]))
        comparison = "no base to compare with"
        if self._base:
            gained_count = sum(flip.is_gained for flip in self._flips.values())
            lost_count = len(self._flips) - gained_count
            comparison = f"against {self._base}: {gained_count} gained, {lost_count} lost"
        text.append(f"\n{format_quantity(len(self._scores), 'item')}, {comparison}", style=self.colours["muted"])
        if row["message"]:
            text.append(f"\n{format_line(row['message'], 300)}", style=self.colours["warning"])
        return text

    async def _fetch_rows(self, keys: Sequence[str]) -> list[Cells]:
        return [self._format_cells(key) if key in self._scores else ["deleted"] for key in keys]

    def _format_cells(self, item: str) -> Cells:
        score, flip = self._scores[item], self._flips.get(item)
        right_share = score.right / score.scored if score.scored else None
        flip_text = Text("")
        if flip:
            mark, colour = ("▲ gained", "success") if flip.is_gained else ("▼ lost", "error")
            flip_text = Text(mark, style=self.colours[colour])
        question = self._questions[item].question if item in self._questions else ""
        return [
            flip_text,
            format_line(item, 60),
            f"{flip.base:.0%}" if flip else "",
            SortableCell(f"{score.right}/{score.scored}", right_share),
            format_line(", ".join(score.readings), 60),
            format_line(question, 300),
        ]

    @on(WindowTable.RowSelected)
    async def _open_item(self) -> None:
        item = str(self.query_one(WindowTable).selected_key)
        evaluations = [evaluation for evaluation in (self._base, self._evaluation) if evaluation]

        def read_records(view: LedgerView) -> list[ItemRecord]:
            return [load_item(view, evaluation, item, self._questions) for evaluation in evaluations]

        records = await self.read_ledger(read_records)
        if records:
            self.app.push_screen(TextDialog(f"Item {item}", self._format_item(evaluations, records)))

    def _format_item(self, evaluations: Sequence[str], records: Sequence[ItemRecord]) -> Text:
        """One item: its question, its gold answer, and the replies to it in each evaluation. `records` contains the
        item's record of each evaluation, in the order of `evaluations`.
        """
        first_record = records[0]
        text = Text.assemble(sanitize(first_record.question), ("\n\nExpected: ", "bold"), sanitize(first_record.answer))
        for evaluation, record in zip(evaluations, records, strict=True):
            side = "Base" if evaluation == self._base else "This evaluation"
            for reply in record.replies:
                style = self.colours["success" if reply.mark == "right" else "error"]
                judge_note = f", {reply.soft} by the judge" if reply.soft else ""
                answer_note = f", read {format_line(reply.reading, 80)}" if reply.reading else ""
                text.append(f"\n\n{side}, run {reply.repeat + 1}: ", style="bold")
                text.append(f"{reply.mark}{judge_note}{answer_note}\n", style=style)
                text.append(sanitize(reply.text, MAX_REPLY_CHARACTERS))
        return text

    def action_details(self) -> None:
        """Show the evaluation's model, data, sampling settings and accuracy per run."""
        row = self._evaluation_row
        if not row:
            return
        accuracy_by_run = ", ".join(f"{accuracy:.1%}" for accuracy in row["result"].get("by_run", ()))
        sampling = row["settings"].get("sampling") or {}
        sampling_parts = [f"{key.replace('_', ' ')} {value}" for key, value in sampling.items() if value != []]
        lines = [
            f"model       {row['model']}",
            f"adapter     {row['adapter'] or 'none'}",
            f"data        {row['data']} {row['split']}",
            f"sampling    {', '.join(sampling_parts) or 'not recorded'}",
            f"by run      {accuracy_by_run or '–'}",
            f"unanswered  {row['result'].get('unanswered', '–')}",
            f"unscored    {row['result'].get('unscored', '–')}",
            f"state       {row['status']}{': ' if row['message'] else ''}{row['message']}",
        ]
        self.app.push_screen(TextDialog(f"Evaluation {row['id']}", "\n".join(lines)))
