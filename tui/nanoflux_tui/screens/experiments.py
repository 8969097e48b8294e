"""Experiments: their progress, the form that starts an experiment, and the available grids."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nanoflux_local.ledger.views import LedgerView
from nanoflux_tui.screens.dialogs import Field, FormDialog
from nanoflux_tui.screens.experiment import (
    CurrentExperiment,
    ExperimentBase,
    ExperimentScreen,
    format_experiment_pace,
    format_progress,
    measure_progress,
    read_experiment,
)
from nanoflux_tui.text import compute_age_order, format_age, format_line
from nanoflux_tui.theme import BROKEN
from nanoflux_tui.widgets.columns import Cells, Column, SortableCell
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

ADVICE = {
    "done": "Press Enter to see its results, r to write its report.",
    "running": "Press Enter to watch it, s to stop it after its current cell.",
    "interrupted": "Press space to resume it at its next cell; nothing is lost.",
}
"""What the user can do with an experiment, by its status; any other status means that it can be resumed."""


class ExperimentsScreen(ExperimentBase):
    """The experiments, newest first."""

    HELP = """Experiments answer a question: whether a run's examples teach more than random ones, how many are
enough, which ones help most. An experiment is a grid of cells; a cell trains and evaluates one
condition with one seed. e starts an experiment in a separate process, Enter shows its results, and
space resumes one that was stopped or killed."""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("e", "new", "New experiment")]
    DEFAULT_CSS = """
    ExperimentsScreen #grids { max-height: 60%; overflow-y: auto; }
    ExperimentsScreen.-flat #grids { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._experiment_by_id: dict[str, CurrentExperiment] = {}
        self._grids: Sequence[tuple[str, str]] = ()  # names and titles, once `load` has read them

    def compose_body(self) -> ComposeResult:
        columns = (
            Column("state", 13),
            Column("experiment", 12),
            Column("scale", 6),
            Column("cells", 24, share=1, from_width=50),
            Column("about", 20, share=3, from_width=98),
            Column("changed", 8, right=True, from_width=76),
        )
        yield WindowTable(columns, self._fetch_rows, id="experiments")
        yield Panel(id="about", classes="plain foot")
        yield Panel("Available experiments (press e to start one)", id="grids")

    async def load(self) -> None:
        if not self._grids:
            self._grids = await asyncio.to_thread(_list_grids)
            self.query_one("#grids", Panel).show(self._format_grids())
        experiment_ids = await self.read_ledger(_list_experiments) or []
        await self.query_one(WindowTable).show(experiment_ids)
        self._show_details()

    def _format_grids(self) -> Text:
        text = Text()
        for name, title in self._grids:
            text.append(f"{name:<17}", style=self.colours["secondary"])
            text.append(f"{title}\n")
        text.rstrip()
        return text

    async def _fetch_rows(self, keys: Sequence[str]) -> list[Cells]:
        ids = list(keys)
        experiments = await self.read_ledger(lambda view: [read_experiment(view, self.home, key) for key in ids]) or []
        self._experiment_by_id.update((experiment.id, experiment) for experiment in experiments)
        return [self._format_cells(experiment) for experiment in experiments]

    def _format_cells(self, experiment: CurrentExperiment) -> Cells:
        overview = experiment.overview
        return [
            self.colours.format_status(experiment.state.status),
            format_line(overview.name, 40),
            format_line(overview.scale, 20),
            SortableCell(format_progress(overview, 8, self.colours["primary"]), measure_progress(overview)),
            Text(format_line(overview.title, 200), style=self.colours["muted"]),
            SortableCell(format_age(overview.updated_at), compute_age_order(overview.updated_at)),
        ]

    def current_experiment(self) -> CurrentExperiment | None:
        return self._experiment_by_id.get(str(self.query_one(WindowTable).selected_key))

    @on(WindowTable.RowHighlighted)
    def _show_details(self) -> None:
        """Show the question of the selected experiment, and its message or what the user can do with it."""
        experiment, panel = self.current_experiment(), self.query_one("#about", Panel)
        if experiment is None:
            panel.show("No experiments yet. Press e to start one.")
            return
        text = Text.assemble((experiment.id, "bold"), f"  {format_line(experiment.overview.question, 200)}")
        state = experiment.state
        advice = ADVICE.get(state.status, "Press space to resume it at its next cell.")
        message = format_line(state.message, 300) or advice
        text.append(f"\n{message}", style=self.colours["error"] if state.status in BROKEN else "")
        if pace := format_experiment_pace(experiment):
            text.append(f"\n{pace}")
        panel.show(text)

    @on(WindowTable.RowSelected)
    def _open_experiment(self) -> None:
        if experiment := self.current_experiment():
            self.app.push_screen(ExperimentScreen(experiment.id))

    def action_new(self) -> None:
        """Open the form that starts an experiment."""
        grid_names = ", ".join(name for name, _ in self._grids)
        fields = (
            Field("grid", "experiment", "table1", "a name, or the path of your own .toml file"),
            Field("scale", "scale", "tiny", "tiny, small or paper"),
            Field("run", "examples of run", "", "generate a new run"),
        )
        note = (
            f"Experiments: {grid_names}, or the path of your own grid. Scale tiny takes minutes and checks that "
            "everything works, small takes about a day, paper needs large GPUs. The experiment continues when you "
            "close this application."
        )
        self.app.push_screen(FormDialog("New experiment", fields, "Start", note), self._start_experiment)

    def _start_experiment(self, values: dict[str, str] | None) -> None:
        if not values:
            return
        arguments = ["experiment", "run", values["grid"], "--scale", values["scale"] or "tiny"]
        if values["run"]:
            arguments += ["--run", values["run"]]
        self.notify("Starting the experiment in a separate process …")
        self._run_start_command([*arguments, "--detach", "--json"])

    @work(group="start", exit_on_error=False)
    async def _run_start_command(self, arguments: list[str]) -> None:
        result = await self.commands.run(*arguments)
        if not result.ok:
            self.application.show_failure(result)
        self.reload()


def _list_experiments(view: LedgerView) -> list[str]:
    """The ids of all experiments, the newest first."""
    return [row["id"] for row in view.rows("SELECT id FROM experiments ORDER BY rowid DESC")]


def _list_grids() -> list[tuple[str, str]]:
    """The names and titles of the built-in grids."""
    from nanoflux_local.experiments.grid import list_grids, load_grid

    return [(name, grid.title) for name, grid in map(load_grid, list_grids())]
