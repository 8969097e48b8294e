"""An experiment: what each condition came to, the paired tests, the items that flipped, and its cells.

What is known of the cells is read from the ledger; the figures are those of `nanoflux experiment show`, asked for again
when a cell has ended.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.kinds.base import find_kind
from nanoflux_local.experiments.tables import PAIR_COLUMNS, TableColumn, notes, pair_rows
from nanoflux_local.jobs import EXPERIMENT, Work, with_worker
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.look import bar
from nanoflux_tui.room import Room
from nanoflux_tui.screens.dialogs import Confirm
from nanoflux_tui.text import duration, harmless, line
from nanoflux_tui.widgets import charts
from nanoflux_tui.widgets.columns import Cells, Column, sheet
from nanoflux_tui.widgets.panel import Panel

CELLS = (
    Column("state", 11),
    Column("cell", 14, share=1),
    Column("rows", 5, right=True, from_width=56),
    Column("adapter", 8, from_width=66),
    Column("message", 20, share=3),
)


class OfExperiments(Room):
    """A room with an experiment at hand, and the keys that are for one."""

    mode = "experiments"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "go_on", "Go on"),
        Binding("s", "stop", "Stop"),
        Binding("r", "report", "Report"),
    ]

    def at_hand(self) -> dict[str, Any] | None:
        """The experiment that keys are for, as `summary` has it."""
        raise NotImplementedError

    def action_go_on(self) -> None:
        experiment = self.at_hand()
        if experiment is None:
            return
        if experiment["worker"]:
            self.notify("A process works on it: s stops it after the cell that it is at.")
        elif experiment["status"] == "done":
            self.notify("It is done: r writes its report.")
        else:
            self.do(
                "experiment", "resume", experiment["id"], "--detach", "--json", said="It goes on with what is left."
            )

    def action_stop(self) -> None:
        if experiment := self.at_hand():
            question = "Stop this experiment? The cell that it is at is ended first; space goes on with what is left."
            self.app.push_screen(Confirm(question, "Stop"), lambda yes: self._stop(experiment["id"], bool(yes)))

    def _stop(self, experiment: str, yes: bool) -> None:
        if yes:
            self.do("experiment", "stop", experiment)

    def action_report(self) -> None:
        if experiment := self.at_hand():
            self.report(experiment["id"])


def summary(view: LedgerView, place: Home, experiment: str) -> dict[str, Any]:
    """An experiment with what is known of its worker."""
    row = board.experiment(view, experiment)
    if row is None:
        raise NothingMatchedError(f"the experiment {experiment} is gone")
    return with_worker(place, view, Work(EXPERIMENT, experiment), row)


class ExperimentRoom(OfExperiments):
    """One experiment."""

    AUTO_FOCUS = "#parts"
    HELP = """What an experiment has found so far. Each condition has its accuracy with a 95% interval; the pairs are
what the experiment asks: a difference is only shown where Holm's p is below 0.05, and detectable is how large a
difference had to be to be found four times in five. Cells are what is done one by one: a killed experiment goes
on with the cells that are left."""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Back")]
    DEFAULT_CSS = """
    ExperimentRoom #parts { height: 1fr; scrollbar-size-vertical: 1; }
    ExperimentRoom.-flat #flips { display: none; }
    """

    def __init__(self, experiment: str) -> None:
        super().__init__()
        self._experiment = experiment
        self._shown_experiment: dict[str, Any] | None = None
        self._asked: object = None

    def body(self) -> ComposeResult:
        yield Panel(id="head", classes="plain")
        with VerticalScroll(id="parts"):
            yield Panel("Conditions", id="conditions")
            yield Panel("Paired tests", id="pairs")
            yield Panel("Items that flipped", id="flips")
            yield Panel("Cells", id="cells")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#conditions", Panel).show("The figures are computed …")
        for name in ("pairs", "flips"):
            self.query_one(f"#{name}").display = False

    async def load(self) -> None:
        experiment, cells = await self.reader.ask(lambda view: (summary(view, self.place, self._experiment),
                                                          board.cells(view, self._experiment)))  # fmt: skip
        self._shown_experiment = experiment
        self.query_one("#head", Panel).show(lambda width: self._head(experiment, width))
        rows = [self._cell(cell) for cell in cells]
        self.query_one("#cells", Panel).show(lambda width: sheet(CELLS, rows, width, self.ink["secondary"]))
        ended = [(cell["id"], cell["at"]) for cell in cells if cell["status"] != "waiting"]
        if ended != self._asked:
            self._asked = ended
            self._figures()

    def at_hand(self) -> dict[str, Any] | None:
        return self._shown_experiment

    def _head(self, experiment: dict[str, Any], width: int) -> Text:
        ink = self.ink
        text = ink.sign(experiment["status"])
        text.append(f"  {line(experiment['title'], 90)}", style="bold")
        text.append(f"  {experiment['id']}\n", style=ink["muted"])
        text.append(f"{line(experiment['question'], 300)}\n")
        text.append_text(progress(experiment, min(40, max(8, width - 50)), ink["primary"]))
        text.append(f"   worked {duration(experiment['seconds'])}")
        if experiment["message"]:
            text.append(f"\n{line(experiment['message'], 400)}", style=ink["error"])
        return text

    def _cell(self, cell: dict[str, Any]) -> Cells:
        result = cell["result"]
        rows = str(result["rows"]) if isinstance(result.get("rows"), int) else ""
        said = cell["message"] or (f"run {result['run']}" if "run" in result else "")
        return [self.ink.sign(cell["status"]), cell["id"], rows, str(result.get("adapter") or "")[:8], line(said, 300)]

    @work(group="figures", exclusive=True, exit_on_error=False)
    async def _figures(self) -> None:
        ended = await self.bridge.do("experiment", "show", self._experiment, "--json", only_asks=True)
        results = ended.json()
        if not ended.ok or not results:
            text = Text(f"✗ {harmless(ended.told, 1_000)}", style=self.ink["error"])
            self.query_one("#conditions", Panel).show(text)
            return
        self.query_one("#conditions", Panel).show(lambda width: self._conditions(results, width))
        self.query_one("#pairs").display = bool(results["pairs"])
        self.query_one("#pairs", Panel).show(lambda width: self._pairs(results["pairs"], width))
        await self._flips(results)

    def _conditions(self, results: dict[str, Any], width: int) -> Text:
        kind = find_kind(results["kind"])
        text = sheet(_columns(kind.columns), _cells(kind.rows(results)), width, self.ink["secondary"])
        for note in notes(results):
            text.append(f"\n{line(note, 400)}", style=self.ink["accent"])
        return text

    def _pairs(self, pairs: Sequence[dict[str, Any]], width: int) -> Text:
        rows = _cells(pair_rows(pairs))
        shown = sum(pair["holm_p"] < 0.05 for pair in pairs)
        sentence = (
            "No difference was shown." if not shown else f"{shown} of {len(pairs)} differences shown (Holm p < 0.05)."
        )
        text = sheet(_columns(PAIR_COLUMNS), rows, width, self.ink["secondary"])
        text.append(f"\n{sentence}", style=self.ink["success" if shown else "warning"])
        return text

    async def _flips(self, results: dict[str, Any]) -> None:
        """The items that flipped in the first pair, under the first seed of each side."""
        panel = self.query_one("#flips", Panel)
        panel.display = bool(results["pairs"])
        if not results["pairs"]:
            return
        pair, by_name = results["pairs"][0], {entry["condition"]: entry for entry in results["conditions"]}
        a, b = (by_name[pair[side]]["test"][pair["data"]]["evaluations"][0] for side in ("a", "b"))
        rows = await self.ask(lambda view: board.flips(view, a, b)) or []
        panel.show(charts.flips(rows, pair["a"], pair["b"], self.ink), f"Items that flipped on {pair['data']}")


def progress(experiment: dict[str, Any], width: int, style: str) -> Text:
    """How many cells need nothing more, and what became of the others."""
    cells = experiment["cells"]
    done, total = board.count_settled(cells), sum(cells.values())
    text = Text.assemble((bar(done, total, width), style), f" {done}/{total} cells")
    for status in ("failed", "left out"):
        text.append(f", {cells[status]} {status}" if cells.get(status) else "")
    return text


def _cells(rows: Sequence[Sequence[object]]) -> list[Cells]:
    return [[line(cell) for cell in row] for row in rows]


def _columns(columns: Sequence[TableColumn]) -> list[Column]:
    return [Column(column.title, column.width, column.share, column.from_width, column.right) for column in columns]
