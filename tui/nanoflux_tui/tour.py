"""The guided tour: the application with a temporary home directory, in which scripted models execute a real run.

The tour needs no weights, API keys or network, and leaves no files.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.widget import Widget

from nanoflux_local.errors import NanofluxError
from nanoflux_local.jobs import RUN, Job, has_worker, request_stop
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.app import NanofluxApp
from nanoflux_tui.screens.example import ExampleScreen
from nanoflux_tui.screens.new_run import NewRunScreen
from nanoflux_tui.screens.run import RunScreen
from nanoflux_tui.widgets.bars import TourBar

END_TIMEOUT_S = 20.0
"""Seconds that the tour waits for its run to end, before it deletes the home directory."""
RUN_COMMAND = (
    "run", "start", "--domain", "starter-genetics", "--profile", "scripted", "--examples", "60", "--seed", "7",
    "--name", "the tour's run", "--concurrency", "3", "--set", "seeds.min=2",
    "--set", "endpoints.duelist-a.delay_s=0.4", "--set", "endpoints.duelist-b.delay_s=0.4",
    "--set", "endpoints.arbiter.delay_s=0.4", "--detach", "--json",
)  # fmt: skip
"""The arguments that start the tour's run. Each scripted reply takes 0.4 s, so that the user can watch the turns."""


@dataclass(frozen=True, slots=True)
class TourStop:
    """One stop of the tour: the function that opens its screen, and its text."""

    open_screen: Callable[["TourApp"], object]
    text: str


class TourApp(NanofluxApp):
    """The application with the tour's text below every screen. F9 shows the next stop, F8 the previous stop."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f9", "move_tour(1)", "Tour: next", priority=True),
        Binding("f8", "move_tour(-1)", "Tour: back", priority=True, show=False),
    ]

    def __init__(self, home: Home, light: bool = False) -> None:
        super().__init__(home, light)
        self.tour_run = ""
        """The id of the tour's run; "" until the run has started."""
        self._stop_index = 0
        self._next_requested = False
        """Whether the user asked for the next stop before the run had started."""

    def build_guide(self) -> Sequence[Widget]:
        return (TourBar(self._format_stop()),)

    def _format_stop(self) -> str:
        """The text of the current stop, with its number and the keys of the tour."""
        stop = STOPS[self._stop_index]
        return f"Tour {self._stop_index + 1}/{len(STOPS)}  {stop.text}  (F9 next, F8 back, q ends the tour)"

    def on_mount(self) -> None:
        super().on_mount()
        self._start_run()

    @work(exit_on_error=False)
    async def _start_run(self) -> None:
        """Start the tour's run, in a separate process like any other run."""
        result = await self.commands.run(*RUN_COMMAND)
        started_run = result.json()
        if not result.ok or not started_run:
            self.show_failure(result)
            return
        self.tour_run = started_run["run"]
        if self._next_requested:
            self.action_move_tour(1)

    def action_move_tour(self, offset: int) -> None:
        """Show the next stop (`offset` 1) or the previous stop (`offset` -1)."""
        if not self.tour_run:  # Home may list the run before the command that starts the run has ended
            self._next_requested = offset > 0
            self.notify("The run is starting. The tour continues in a moment.")
            return
        self._stop_index = min(len(STOPS) - 1, max(0, self._stop_index + offset))
        STOPS[self._stop_index].open_screen(self)
        self.call_later(self._update_tour_bar)

    def _update_tour_bar(self) -> None:
        """Show the text of the current stop on a screen that was composed for an earlier stop."""
        for bar in self.screen.query(TourBar):
            bar.update(self._format_stop())

    def open_run(self) -> None:
        self.action_go("home")
        self.push_screen(RunScreen(self.tour_run))

    @work(exit_on_error=False)
    async def open_example(self) -> None:
        run = self.tour_run
        keys = await self.reader.read(lambda view: board.list_example_keys(view, board.ExampleSelection(run)))
        self.action_go("examples")
        if len(keys):
            self.push_screen(ExampleScreen(keys, 0))
            self.call_later(self._update_tour_bar)

    def open_run_form(self) -> None:
        self.action_go("home")
        self.push_screen(NewRunScreen("starter-genetics", "scripted"))


STOPS = (
    TourStop(
        lambda app: app.action_go("home"),
        "Home lists everything that runs, waits or failed. A run with scripted models is starting now, in a "
        "separate process: closing the application would not stop it.",
    ),
    TourStop(
        TourApp.open_run,
        "A live run. Attacker and defender swap roles after each turn. A question must be new and valid; it is "
        "kept if the defender fails or finds a new solution.",
    ),
    TourStop(
        TourApp.open_run,
        "Steer the run: space pauses and resumes it, c changes its target or its concurrency, s stops it. Turns in "
        "progress are always finished and kept. Try it.",
    ),
    TourStop(
        lambda app: app.action_go("examples"),
        "The examples kept so far. Press / and type a word to filter the table as you type; r shows one reason only.",
    ),
    TourStop(
        TourApp.open_example,
        "One example in full: both solutions side by side, the judge's verdicts, and its origin. k keeps it, d "
        "drops it, f marks it for fixing, u undoes your last review.",
    ),
    TourStop(
        TourApp.open_run_form,
        "The form that starts a run. It checks your input as you type and shows the equivalent command, which you "
        "can copy.",
    ),
    TourStop(
        lambda app: app.action_go("training"),
        "Training needs weights, which the tour does not have. With weights, t fine-tunes a model on a run's "
        "examples: first an audit of the data, then live loss curves.",
    ),
    TourStop(
        lambda app: app.action_go("evaluation"),
        "Evaluations of models with and without adapters, with confidence intervals. space marks two of them, c "
        "tests whether they differ and lists the items that flipped.",
    ),
    TourStop(
        lambda app: app.action_go("models"),
        "Models and servers: installed weights, weights to download, GPU plans. The tour ends here: q quits and "
        "deletes its run. `nanoflux-tui` opens your own home.",
    ),
)


def run_tour(light: bool = False) -> int:
    """Run the tour in a temporary home directory and delete that directory. Returns the application's exit code."""
    root = Path(tempfile.mkdtemp(prefix="nanoflux-tour-"))
    home = Home(root).prepare()
    app = TourApp(home, light)
    try:
        app.run()
    finally:
        _end_runs(home)
        shutil.rmtree(root, ignore_errors=True)
    return app.return_code or 0


def _end_runs(home: Home) -> None:
    """End the tour's runs immediately, and wait until their workers have ended, at most `END_TIMEOUT_S`."""
    with suppress(NanofluxError), LedgerView(home.ledger) as view:
        runs = [Job(RUN, row["id"]) for row in view.rows("SELECT id FROM runs")]
        deadline = time.monotonic() + END_TIMEOUT_S
        for run in runs:
            while has_worker(home, run) and time.monotonic() < deadline:
                with suppress(NanofluxError):
                    request_stop(home, run, "stop")  # the second request ends the run immediately
                time.sleep(0.1)
