"""Experiments: those that were begun here and how far each is; a new one; and what grids there are."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nanoflux_local.ledger.views import LedgerView
from nanoflux_tui.bridge import Ended
from nanoflux_tui.look import BROKEN
from nanoflux_tui.screens.dialogs import Field, Fill
from nanoflux_tui.screens.experiment import ExperimentRoom, OfExperiments, progress, summary
from nanoflux_tui.text import ago, line
from nanoflux_tui.widgets.columns import Cells, Column
from nanoflux_tui.widgets.panel import Panel
from nanoflux_tui.widgets.window_table import WindowTable

ADVICE = {
    "done": "Enter shows its table, r writes its report",
    "running": "Enter watches it, s stops it after the cell that it is at",
    "interrupted": "space goes on with what is left, nothing is lost",
}


class ExperimentsRoom(OfExperiments):
    """The experiments, newest first."""

    HELP = """Experiments answer a question: whether a run's examples teach more than random ones, how many are enough,
which ones are good. Each is a grid of cells, a condition trained and evaluated under one seed. e begins one, in a
process of its own; Enter shows what it found; space goes on with one that was stopped or killed, at its next cell."""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("e", "begin", "New experiment")]
    DEFAULT_CSS = """
    ExperimentsRoom #grids { max-height: 60%; overflow-y: auto; }
    ExperimentsRoom.-flat #grids { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._experiment_by_id: dict[str, dict[str, Any]] = {}
        self._grids: Sequence[tuple[str, str]] = ()

    def body(self) -> ComposeResult:
        columns = (
            Column("state", 13),
            Column("experiment", 12),
            Column("scale", 6),
            Column("cells", 24, share=1, from_width=50),
            Column("about", 20, share=3, from_width=98),
            Column("changed", 8, right=True, from_width=76),
        )
        yield WindowTable(columns, self._rows, id="experiments")
        yield Panel(id="about", classes="plain foot")
        yield Panel("What can be asked: e begins one", id="grids")

    async def load(self) -> None:
        if not self._grids:
            self._grids = await asyncio.to_thread(_grids)
            self.query_one("#grids", Panel).show(self._grid_list())
        await self.query_one(WindowTable).show(await self.ask(_keys) or [])
        self._about()

    def _grid_list(self) -> Text:
        text = Text()
        for name, title in self._grids:
            text.append(f"{name:<17}", style=self.ink["secondary"])
            text.append(f"{title}\n")
        text.rstrip()
        return text

    async def _rows(self, keys: Sequence[str]) -> list[Cells]:
        wanted = list(keys)
        experiments = await self.ask(lambda view: [summary(view, self.place, key) for key in wanted]) or []
        self._experiment_by_id.update((experiment["id"], experiment) for experiment in experiments)
        return [self._cells(experiment) for experiment in experiments]

    def _cells(self, experiment: dict[str, Any]) -> Cells:
        return [
            self.ink.sign(experiment["status"]),
            line(experiment["name"], 40),
            line(experiment["scale"], 20),
            progress(experiment, 8, self.ink["primary"]),
            Text(line(experiment["title"], 200), style=self.ink["muted"]),
            ago(experiment["updated_at"]),
        ]

    def at_hand(self) -> dict[str, Any] | None:
        return self._experiment_by_id.get(str(self.query_one(WindowTable).key))

    @on(WindowTable.Pointed)
    def _about(self) -> None:
        experiment, panel = self.at_hand(), self.query_one("#about", Panel)
        if experiment is None:
            panel.show("No experiment yet: e begins one, in a process of its own.")
            return
        text = Text.assemble((experiment["id"], "bold"), f"  {line(experiment['question'], 200)}")
        said = line(experiment["message"], 300) or ADVICE.get(experiment["status"], "space goes on with what is left")
        text.append(f"\n{said}", style=self.ink["error"] if experiment["status"] in BROKEN else "")
        panel.show(text)

    @on(WindowTable.Chosen)
    def _open(self) -> None:
        if experiment := self.at_hand():
            self.app.push_screen(ExperimentRoom(experiment["id"]))

    def action_begin(self) -> None:
        names = ", ".join(name for name, _ in self._grids)
        fields = (
            Field("grid", "which one", "table1", "a name, or a .toml file of your own"),
            Field("scale", "how large", "tiny", "tiny, small or paper"),
            Field("run", "examples of the run", "", "a run of its own"),
        )
        note = (
            f"One of {names}; or the path of your own grid. tiny takes minutes and shows that everything works, small "
            "about a day, paper large GPUs. It goes on when this is closed."
        )
        self.app.push_screen(Fill("A new experiment", fields, "Begin", note), self._begin)

    def _begin(self, values: dict[str, str] | None) -> None:
        if not values:
            return
        words = ["experiment", "run", values["grid"], "--scale", values["scale"] or "tiny"]
        words += ["--run", values["run"]] if values["run"] else []
        self.notify("The experiment is being started in a process of its own.")
        self._start([*words, "--detach", "--json"])

    @work(group="begin", exit_on_error=False)
    async def _start(self, words: list[str]) -> None:
        ended: Ended = await self.bridge.do(*words)
        if not ended.ok:
            self.control.complain(ended)
        self.reload()


def _keys(view: LedgerView) -> list[str]:
    return [row["id"] for row in view.rows("SELECT id FROM experiments ORDER BY rowid DESC")]


def _grids() -> list[tuple[str, str]]:
    """The grids that ship, each with its title."""
    from nanoflux_local.experiments.grid import grids, load_grid

    return [(name, grid.title) for name, grid in map(load_grid, grids())]
