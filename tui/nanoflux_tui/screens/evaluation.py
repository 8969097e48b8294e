"""Evaluations: each model's accuracy with its interval, paired tests of marked evaluations, and flipped items."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from nanoflux_local.adapters.store import list_adapters
from nanoflux_local.evaluate.evaluation import PARTIAL
from nanoflux_local.evaluate.items import list_flips
from nanoflux_local.jobs import EVALUATION, Job, load_job_state
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_models.manifest import list_manifests
from nanoflux_models.weights import list_installed
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.commands import CommandResult
from nanoflux_tui.screens.dialogs import Field, FormDialog
from nanoflux_tui.screens.items import ItemsScreen
from nanoflux_tui.text import format_line, sanitize
from nanoflux_tui.widgets import charts
from nanoflux_tui.widgets.columns import Cells, Column, SortableCell, TableCell
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

NO_ADAPTER = "none"
"""The option in the form's adapter list that evaluates the model without an adapter."""
HINT = "Mark two or more evaluations of the same items with space, then press c."


class EvaluationScreen(BaseScreen):
    """The evaluations; `space` marks an evaluation, `c` compares the marked evaluations."""

    mode = "evaluation"
    HELP = """Each evaluation with its strict accuracy and 95% interval. Space marks evaluations of the same items; c
tests each pair of them (paired, with Holm's correction) and lists the items that flipped. Enter lists the items of
an evaluation, those that flip against a marked one (or the untuned model) first."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark"),
        Binding("c", "compare", "Compare"),
        Binding("e", "evaluate", "New evaluation"),
    ]
    DEFAULT_CSS = """
    EvaluationScreen #pairs { height: auto; max-height: 60%; scrollbar-size-vertical: 1; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._line_by_id: dict[str, board.EvaluationLine] = {}
        self._marked_ids: list[str] = []  # in the order in which the user marked them

    def compose_body(self) -> ComposeResult:
        columns = (
            Column(" ", 1),
            Column("eval", 12, from_width=134),
            Column("model", 12, share=2),
            Column("adapter", 8, from_width=52),
            Column("data", 10, share=2, from_width=79),
            Column("items", 6, right=True, from_width=88),
            Column("correct", 7, right=True),
            Column("95% interval", 14, from_width=67),
            Column("interval, 0 to 100%", 22, from_width=119),
            Column("state", 13, share=1),
        )
        yield WindowTable(columns, self._fetch_rows, id="evaluations")
        with VerticalScroll(id="pairs", can_focus=False):
            yield Panel("Comparison", id="comparison")
            yield Panel("Items that flipped", id="flips")

    async def load(self) -> None:
        evaluations = await self.read_ledger(self._read_evaluations) or []
        self._line_by_id = {line.id: line for line in evaluations}
        self._marked_ids = [marked_id for marked_id in self._marked_ids if marked_id in self._line_by_id]
        requested_key = self.application.requested_key_by_tab.pop("evaluation", None)
        await self.query_one(WindowTable).show(list(self._line_by_id), requested_key)
        if not self._marked_ids:
            empty_text = "No evaluations yet. Press e to evaluate a model, with or without an adapter."
            self.query_one("#comparison", Panel).show(HINT if evaluations else empty_text)
        if len(self._marked_ids) != 2:
            self.query_one("#flips").display = False

    def _read_evaluations(self, view: LedgerView) -> list[board.EvaluationLine]:
        """All evaluations. If an evaluation is recorded as running, its status takes its worker into account."""
        lines: list[board.EvaluationLine] = []
        for line in board.list_evaluations(view):
            if line.status == "running":
                state = load_job_state(self.home, view, Job(EVALUATION, line.id), asdict(line))
                lines.append(replace(line, status=state.status))
            else:
                lines.append(line)
        return lines

    async def _fetch_rows(self, keys: Sequence[str]) -> list[Cells]:
        return [self._format_cells(self._line_by_id[key]) if key in self._line_by_id else ["deleted"] for key in keys]

    def _format_cells(self, line: board.EvaluationLine) -> Cells:
        strict_accuracy = line.result.get("strict")
        accuracy_cells: list[TableCell] = [SortableCell("", None), "–", ""]
        if strict_accuracy:
            mean, (low, high) = strict_accuracy["mean"], strict_accuracy["ci95"]
            accuracy_cells = [
                SortableCell(self._format_mean(line), mean),
                SortableCell(f"{low:.1%} – {high:.1%}", low),
                SortableCell(_draw_interval(mean, low, high, 22), mean),
            ]
        state = self.colours.format_status(line.status)
        if line.total and line.status in ("running", PARTIAL):
            state.append(f" {line.done}/{line.total}")
        return [
            Text("✓" if line.id in self._marked_ids else " ", style=f"bold {self.colours['accent']}"),
            line.id,
            format_line(line.model, 40),
            line.adapter[:8] or "–",
            format_line(line.data, 40),
            str(line.settings.get("n", "–")),
            *accuracy_cells,
            state,
        ]

    def _format_mean(self, line: board.EvaluationLine) -> str | Text:
        """The strict accuracy. If the evaluation is partial, the mark of this status precedes the accuracy."""
        mean: float = line.result["strict"]["mean"]
        if line.status != PARTIAL:
            return f"{mean:.1%}"
        mark = self.colours.format_status(PARTIAL).plain[0]
        return Text(f"{mark} {mean:.0%}", style=self.colours["warning"])

    def action_mark(self) -> None:
        """Mark the selected evaluation, or remove its mark."""
        key = self.query_one(WindowTable).selected_key
        if key is None:
            return
        if key in self._marked_ids:
            self._marked_ids.remove(key)
        else:
            self._marked_ids.append(key)
        self.query_one("#comparison", Panel).show(HINT)  # the comparison on the screen belongs to the previous marks
        self.query_one("#flips").display = False
        self.reload()

    def action_compare(self) -> None:
        """Compare the marked evaluations with `nanoflux compare`, and show the result."""
        if len(self._marked_ids) < 2:
            self.notify("Mark two or more evaluations of the same items with space first.", severity="warning")
            return
        self.query_one("#comparison", Panel).show("Testing the pairs …")
        compared_ids = list(self._marked_ids)

        def show_unless_marks_changed(result: CommandResult) -> None:
            if self._marked_ids == compared_ids:
                self._show_comparison(result)

        success = "Compared the marked evaluations."
        self.run_command("compare", *compared_ids, "--json", success=success, on_result=show_unless_marks_changed)

    def _show_comparison(self, result: CommandResult) -> None:
        """Show the pairs that `nanoflux compare` tested; for a single pair, also the items that flipped."""
        comparison = result.json()
        panel = self.query_one("#comparison", Panel)
        if not result.ok or not comparison:
            panel.show(Text(f"✗ {sanitize(result.stderr, 1_000)}", style=self.colours["error"]))
            return
        pairs = comparison["pairs"]
        panel.show(lambda width: self._draw_pairs(pairs, width))
        if len(pairs) == 1:
            self._show_flips(pairs[0]["a"], pairs[0]["b"])

    def _draw_pairs(self, pairs: Sequence[dict[str, Any]], width: int) -> Text:
        """The table of the paired tests, with short names in place of the evaluations' ids."""
        named_pairs: list[dict[str, Any]] = []
        for pair in pairs:
            base, other = pair["a"], pair["b"]
            shown_names = {"a": self._shorten_name(base), "b": self._shorten_name(other), "data": self._find_data(base)}
            named_pairs.append({**pair, **shown_names})
        return charts.draw_pairs(named_pairs, self.colours, width)

    def _find_data(self, evaluation: str) -> str:
        """The name of the benchmark of an evaluation; "" if the evaluation is not listed."""
        return self._line_by_id[evaluation].data if evaluation in self._line_by_id else ""

    def _shorten_name(self, evaluation: str) -> str:
        """The adapter of an evaluation, or its model if it has no adapter; the evaluation's id if it is not listed."""
        line = self._line_by_id.get(evaluation)
        return format_line(line.adapter[:12] or line.model, 12) if line else evaluation

    def _show_flips(self, base: str, other: str) -> None:
        self.run_worker(self._load_flips(base, other), group="flips", exclusive=True, exit_on_error=False)

    async def _load_flips(self, base: str, other: str) -> None:
        flips = await self.read_ledger(lambda view: list_flips(view, base, other)) or []
        self.query_one("#flips").display = True
        self.query_one("#flips", Panel).show(
            charts.draw_flips(flips, self._shorten_name(base), self._shorten_name(other), self.colours)
        )

    @on(WindowTable.RowSelected)
    async def _open_items(self) -> None:
        """Open the items of the selected evaluation. If exactly one other evaluation is marked, the items are shown
        with their flips against that evaluation.
        """
        evaluation = str(self.query_one(WindowTable).selected_key)
        if evaluation not in self._line_by_id:
            return
        other_marked_ids = [marked_id for marked_id in self._marked_ids if marked_id != evaluation]
        base = other_marked_ids[0] if len(other_marked_ids) == 1 else ""
        self.app.push_screen(ItemsScreen(evaluation, base))

    def action_evaluate(self) -> None:
        """Open the form that starts an evaluation of an installed chat model."""
        installed = {record.name for record in list_installed(self.home.root)}
        models = [
            manifest.name
            for manifest in list_manifests(self.home.root)
            if manifest.kind == "chat" and manifest.name in installed
        ]
        if not models:
            self.notify(
                "No chat model is installed. Press 5, select a model and press p to download it.", severity="warning"
            )
            return
        adapters = [NO_ADAPTER, *(adapter.hash[:12] for adapter in list_adapters(self.home.adapters))]
        fields = (
            Field("model", "model", models[0], options=models),
            Field("adapter", "adapter", NO_ADAPTER, options=adapters),
            Field("data", "benchmark", "starter-easy"),
            Field("limit", "maximum items", "", "all"),
            Field("runs", "repeats", "5"),
        )
        note = "The evaluation is a separate process; it continues when you close this application."
        self.app.push_screen(FormDialog("New evaluation", fields, "Evaluate", note), self._evaluate)

    def _evaluate(self, values: dict[str, str] | None) -> None:
        """Start an evaluation with the values of the form; None means that the user cancelled."""
        if not values:
            return
        arguments = ["eval", "--model", values["model"], "--data", values["data"], "--runs", values["runs"] or "5"]
        if values["adapter"] != NO_ADAPTER:
            arguments += ["--adapter", values["adapter"]]
        if values["limit"]:
            arguments += ["--limit", values["limit"]]
        self.commands.start_in_background(f"evaluating {values['model']}", *arguments, "--json")
        self.notify("Started the evaluation. Its progress appears here.")


def _draw_interval(mean: float, low: float, high: float, width: int) -> str:
    """An interval and its mean, drawn on a line of `width` cells that stands for 0 to 100%. All values are shares from
    0 to 1.
    """

    def find_cell(share: float) -> int:
        return min(width - 1, max(0, round(share * (width - 1))))

    low_cell, mean_cell, high_cell = find_cell(low), find_cell(mean), find_cell(high)
    cells = ["·"] * width
    cells[low_cell : high_cell + 1] = "─" * (high_cell + 1 - low_cell)
    cells[mean_cell] = "●"
    return "".join(cells)
