"""An experiment: the accuracy of each condition, the paired tests, the items that flipped, and its cells.

The cells are read from the ledger. The results come from `nanoflux experiment show`, which is run again whenever a cell
is settled, that is, done, failed or left out.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.evaluate.items import list_flips
from nanoflux_local.experiments.kinds.base import find_experiment_kind
from nanoflux_local.experiments.tables import list_notes
from nanoflux_local.jobs import EXPERIMENT, Job, JobState, load_job_state
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.base import BaseScreen
from nanoflux_tui.screens.dialogs import ConfirmDialog
from nanoflux_tui.text import format_duration, format_line, format_pace, format_quantity, sanitize
from nanoflux_tui.theme import ENDED, draw_bar
from nanoflux_tui.widgets import charts
from nanoflux_tui.widgets.columns import Cells, Column, convert_columns, format_rows, format_table
from nanoflux_tui.widgets.panel import Panel

CELL_COLUMNS = (
    Column("state", 11),
    Column("cell", 14, share=1),
    Column("rows", 5, right=True, from_width=56),
    Column("adapter", 8, from_width=66),
    Column("message", 20, share=3),
)
"""The columns of the table of an experiment's cells."""


@dataclass(frozen=True, slots=True)
class CurrentExperiment:
    """An experiment as recorded in the ledger, and its current state, which takes its worker into account."""

    overview: board.ExperimentOverview
    state: JobState

    @property
    def id(self) -> str:
        return self.overview.id


class ExperimentBase(BaseScreen):
    """The base class of screens with keys that act on one experiment, which `current_experiment` returns."""

    mode = "experiments"
    KEYMAP_SECTION = "every-experiment"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "resume", "Resume"),
        Binding("s", "stop", "Stop"),
        Binding("r", "report", "Report"),
    ]

    def current_experiment(self) -> CurrentExperiment | None:
        """The experiment on which the keys act; None if there is none."""
        raise NotImplementedError

    def action_resume(self) -> None:
        experiment = self.current_experiment()
        if experiment is None:
            return
        if experiment.state.worker:
            self.notify("This experiment is running. Press s to stop it after its current cell.")
        elif experiment.state.status == "done":
            self.notify("This experiment is done. Press r to write its report.")
        else:
            self.run_command(
                "experiment",
                "resume",
                experiment.id,
                "--detach",
                "--json",
                success="Resumed the experiment at its next cell.",
            )

    def action_stop(self) -> None:
        experiment = self.current_experiment()
        if experiment is not None and experiment.state.worker is None and experiment.state.status in ENDED:
            self.notify(f"This experiment is already {experiment.state.status}.")
        elif experiment is not None:
            question = "Stop this experiment? It finishes its current cell first. You can resume it later."
            self.app.push_screen(ConfirmDialog(question, "Stop"), lambda yes: self._stop(experiment.id, bool(yes)))

    def _stop(self, experiment: str, yes: bool) -> None:
        if yes:
            self.run_command("experiment", "stop", experiment)

    def action_report(self) -> None:
        if experiment := self.current_experiment():
            self.write_report(experiment.id)


def read_experiment(view: LedgerView, home: Home, experiment: str) -> CurrentExperiment:
    """The experiment with the id `experiment`, with its current state.

    Raises:
        NothingMatchedError: the ledger does not contain the experiment.
    """
    overview = board.load_experiment(view, experiment)
    if overview is None:
        raise NothingMatchedError(
            f"experiment {experiment} is no longer in the ledger", "return to the list with Escape"
        )
    return CurrentExperiment(overview, load_job_state(home, view, Job(EXPERIMENT, experiment), asdict(overview)))


class ExperimentScreen(ExperimentBase):
    """One experiment, updated while it runs."""

    AUTO_FOCUS = "#parts"
    HELP = """The results of an experiment so far. Each condition has its accuracy with a 95% interval. The paired
tests answer the experiment's question: a difference counts as shown if Holm's p is below 0.05, and
`detectable` is the smallest difference that this many items reveal with 80% power. An experiment runs
cell by cell; after an interruption it resumes at its next cell."""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Back")]
    DEFAULT_CSS = """
    ExperimentScreen.-flat #flips { display: none; }
    """

    def __init__(self, experiment: str) -> None:
        super().__init__()
        self._experiment = experiment
        self._current: CurrentExperiment | None = None
        self._settled_cells: list[tuple[str, str]] | None = None
        """The id and the time of the last change of each cell that was not waiting when the results were last
        requested.
        """
        self._results_at: datetime | None = None
        """The local time at which the computation of the results on the screen started."""

    def compose_body(self) -> ComposeResult:
        yield Panel(id="head", classes="plain")
        with VerticalScroll(id="parts"):
            yield Panel("Conditions", id="conditions")
            yield Panel("Paired tests", id="pairs")
            yield Panel("Items that flipped", id="flips")
            yield Panel("Cells", id="cells")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#conditions", Panel).show("Computing the results …")
        for name in ("pairs", "flips"):
            self.query_one(f"#{name}").display = False

    async def load(self) -> None:
        experiment, cells = await self.reader.read(self._read)
        self._current = experiment
        self.query_one("#head", Panel).show(lambda width: self._format_head(experiment, width))
        rows = [self._format_cell(cell) for cell in cells]
        self.query_one("#cells", Panel).show(
            lambda width: format_table(CELL_COLUMNS, rows, width, self.colours["secondary"])
        )
        settled_cells = [(cell.id, cell.changed_at) for cell in cells if cell.status != "waiting"]
        if settled_cells != self._settled_cells:
            self._settled_cells = settled_cells
            self._update_results()

    def _read(self, view: LedgerView) -> tuple[CurrentExperiment, list[board.CellLine]]:
        return read_experiment(view, self.home, self._experiment), board.list_cells(view, self._experiment)

    def current_experiment(self) -> CurrentExperiment | None:
        return self._current

    def _format_head(self, experiment: CurrentExperiment, width: int) -> Text:
        """The experiment's status, title, question and progress."""
        colours, overview, state = self.colours, experiment.overview, experiment.state
        text = colours.format_status(state.status)
        text.append(f"  {format_line(overview.title, 90)}", style="bold")
        text.append(f"  {overview.id}\n", style=colours["muted"])
        text.append(f"{format_line(overview.question, 300)}\n")
        text.append_text(format_progress(overview, min(40, max(8, width - 50)), colours["primary"]))
        pace = format_experiment_pace(experiment)
        text.append(f"   worked {format_duration(state.seconds)}")
        text.append(f", {pace}" if pace else "")
        if state.message:
            text.append(f"\n{format_line(state.message, 400)}", style=colours["error"])
        return text

    def _format_cell(self, cell: board.CellLine) -> Cells:
        """The row of a cell in the table of cells."""
        result = cell.result
        rows = str(result["rows"]) if isinstance(result.get("rows"), int) else ""
        message = cell.message or (f"run {result['run']}" if "run" in result else "")
        return [
            self.colours.format_status(cell.status),
            cell.id,
            rows,
            str(result.get("adapter") or "")[:8],
            format_line(message, 300),
        ]

    @work(group="figures", exclusive=True, exit_on_error=False)
    async def _update_results(self) -> None:
        """Compute the results with `nanoflux experiment show`, and show them."""
        conditions = self.query_one("#conditions", Panel)
        conditions.border_subtitle = self._describe_results_age()
        started_at = datetime.now()
        result = await self.commands.run("experiment", "show", self._experiment, "--json", read_only=True)
        self._results_at = started_at
        conditions.border_subtitle = ""
        results = result.json()
        if not result.ok or not results:
            conditions.show(Text(f"✗ {sanitize(result.stderr, 1_000)}", style=self.colours["error"]))
            return
        conditions.show(lambda width: self._format_conditions(results, width))
        self.query_one("#pairs").display = bool(results["pairs"])
        self.query_one("#pairs", Panel).show(lambda width: charts.draw_pairs(results["pairs"], self.colours, width))
        await self._update_flips(results)

    def _describe_results_age(self) -> str:
        """The note that the screen shows while newer results are computed, with the time of the results on the screen;
        "" if no results have been shown yet.
        """
        return f"◷ As of {self._results_at:%H:%M:%S}; computing newer results …" if self._results_at else ""

    def _format_conditions(self, results: dict[str, Any], width: int) -> Text:
        kind = find_experiment_kind(results["kind"])
        text = format_table(
            convert_columns(kind.columns), format_rows(kind.list_rows(results)), width, self.colours["secondary"]
        )
        for note in list_notes(results):
            text.append(f"\n{format_line(note, 400)}", style=self.colours["accent"])
        return text

    async def _update_flips(self, results: dict[str, Any]) -> None:
        """Show the items that flip between the conditions of the first tested pair, in the evaluations of their first
        training seeds.
        """
        panel = self.query_one("#flips", Panel)
        panel.display = bool(results["pairs"])
        if not results["pairs"]:
            return
        pair = results["pairs"][0]
        results_by_condition = {entry["condition"]: entry for entry in results["conditions"]}

        def find_first_evaluation(condition: str) -> str:
            accuracy = results_by_condition[condition]["test"][pair["data"]]
            return str(accuracy["evaluations"][0])

        base_evaluation, other_evaluation = find_first_evaluation(pair["a"]), find_first_evaluation(pair["b"])
        flips = await self.read_ledger(lambda view: list_flips(view, base_evaluation, other_evaluation)) or []
        panel.show(
            charts.draw_flips(flips, pair["a"], pair["b"], self.colours), f"Items that flipped on {pair['data']}"
        )


def measure_progress(overview: board.ExperimentOverview) -> float:
    """The share of an experiment's cells that are settled (done, failed or left out), from 0 to 1."""
    return overview.settled / max(1, overview.total)


def format_progress(overview: board.ExperimentOverview, width: int, style: str) -> Text:
    """The number of an experiment's settled cells, after a bar that is `width` characters wide and has the style
    `style`, and how many cells failed or were left out.
    """
    settled, total = overview.settled, overview.total
    text = Text.assemble((draw_bar(settled, total, width), style), f" {settled}/{format_quantity(total, 'cell')}")
    for status in ("failed", "left out"):
        text.append(f", {overview.cells[status]} {status}" if overview.cells.get(status) else "")
    return text


def format_experiment_pace(experiment: CurrentExperiment) -> str:
    """The time per cell and the time left, such as "40 s each, 3 min left"; "" if the experiment does not run."""
    if experiment.state.status != "running":
        return ""
    return format_pace(experiment.overview.settled, experiment.overview.total, experiment.state.seconds, "cells")
