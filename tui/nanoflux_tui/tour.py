"""The guided tour: the application over a home of its own, in which models that are scripted play a real run.

Needs no weights, no key and no network, and leaves nothing behind.
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
from nanoflux_local.jobs import RUN, Work, ask, is_worked_on
from nanoflux_local.ledger import board
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.app import NanofluxApp
from nanoflux_tui.screens.example import ExampleRoom
from nanoflux_tui.screens.new_run import NewRun
from nanoflux_tui.screens.run import RunRoom
from nanoflux_tui.widgets.bars import Guide

ENDS_WITHIN_S = 20.0
SCRIPTED = (
    "run", "start", "--domain", "starter-genetics", "--profile", "scripted", "--examples", "60", "--seed", "7",
    "--name", "the tour's run", "--concurrency", "3", "--set", "seeds.min=2",
    *(word for name in ("duelist-a", "duelist-b", "arbiter") for word in ("--set", f"endpoints.{name}.delay_s=0.4")),
    "--detach", "--json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stop:
    """One stop of the tour: where it is, and what is said there."""

    go: Callable[["TourApp"], object]
    text: str


class TourApp(NanofluxApp):
    """The application with a guide at the foot of every room. F9 goes on, F8 goes back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f9", "guide(1)", "Tour: next", priority=True),
        Binding("f8", "guide(-1)", "Tour: back", priority=True, show=False),
    ]

    def __init__(self, place: Home, light: bool = False) -> None:
        super().__init__(place, light)
        self.tour_run = ""
        self._at = 0
        self._asked_early = False

    def guide(self) -> Sequence[Widget]:
        return (Guide(self._guide_text()),)

    def _guide_text(self) -> str:
        return f"Tour {self._at + 1}/{len(STOPS)}  {STOPS[self._at].text}  (F9 goes on, F8 back, q ends it)"

    def on_mount(self) -> None:
        super().on_mount()
        self._play()

    @work(exit_on_error=False)
    async def _play(self) -> None:
        """Start the tour's run, which plays in a process of its own like any other."""
        ended = await self.bridge.do(*SCRIPTED)
        started = ended.json()
        if not ended.ok or not started:
            self.complain(ended)
            return
        self.tour_run = started["run"]
        if self._asked_early:
            self.action_guide(1)

    def action_guide(self, by: int) -> None:
        if not self.tour_run:  # Home shows the run a moment before the command that starts it has ended
            self._asked_early = by > 0
            self.notify("The run is only starting; a moment.")
            return
        self._at = min(len(STOPS) - 1, max(0, self._at + by))
        STOPS[self._at].go(self)
        self.call_later(self._tell)

    def _tell(self) -> None:
        for guide in self.screen.query(Guide):
            guide.update(self._guide_text())

    def watch_run(self) -> None:
        self.action_go("home")
        self.push_screen(RunRoom(self.tour_run))

    @work(exit_on_error=False)
    async def open_example(self) -> None:
        run = self.tour_run
        keys = await self.reader.ask(lambda view: board.example_keys(view, run))
        self.action_go("examples")
        if len(keys):
            self.push_screen(ExampleRoom(keys, 0))
            self.call_later(self._tell)

    def open_form(self) -> None:
        self.action_go("home")
        self.push_screen(NewRun("starter-genetics", "scripted"))


STOPS = (
    Stop(
        lambda app: app.action_go("home"),
        "This is Home: everything that runs, waits or went wrong. A run of scripted models is starting right now, in a "
        "process of its own: closing this would not stop it.",
    ),
    Stop(
        TourApp.watch_run,
        "The run, live. Attacker and defender swap after each turn; a question must be new and valid, and is kept "
        "where the defender fails or finds a new way.",
    ),
    Stop(
        TourApp.watch_run,
        "Steer it: space pauses and resumes, c changes its target or how many requests it makes at once, s stops. "
        "Turns under way are always finished and kept. Try it.",
    ),
    Stop(
        lambda app: app.action_go("examples"),
        "What was kept so far. Press / and type a word: the table answers as you type. r shows only one reason.",
    ),
    Stop(
        lambda app: app.open_example(),
        "One example, whole: both solutions side by side, what the judge said, where it came from. k keeps it, d drops "
        "it, f marks it to be fixed, u takes that back.",
    ),
    Stop(
        TourApp.open_form,
        "How a run is started: a sentence with gaps. What is wrong is said while you type, and the command that does "
        "the same stands below.",
    ),
    Stop(
        lambda app: app.action_go("training"),
        "Training needs weights, which the tour has not: with some, t tunes a model on a run's examples. The audit "
        "comes first, then the curves grow here.",
    ),
    Stop(
        lambda app: app.action_go("evaluation"),
        "Evaluations of the tuned model and of the untuned one stand here with their intervals; space marks two, c "
        "tests whether they differ and lists the items that flipped.",
    ),
    Stop(
        lambda app: app.action_go("models"),
        "Models and servers: what is here, what can be fetched, what would go on which GPU. That was the tour: q ends "
        "it and takes its run away. `nanoflux-tui` opens your own home.",
    ),
)


def take(light: bool = False) -> int:
    """The tour, from its start to the last trace of it. Returns the application's exit code."""
    root = Path(tempfile.mkdtemp(prefix="nanoflux-tour-"))
    place = Home(root).prepare()
    app = TourApp(place, light)
    try:
        app.run()
    finally:
        _end(place)
        shutil.rmtree(root, ignore_errors=True)
    return app.return_code or 0


def _end(place: Home) -> None:
    """End the tour's runs at once: nobody wants them any more."""
    with suppress(NanofluxError), LedgerView(place.ledger) as view:
        works = [Work(RUN, row["id"]) for row in view.rows("SELECT id FROM runs")]
        until = time.monotonic() + ENDS_WITHIN_S
        for each in works:
            while is_worked_on(place, each) and time.monotonic() < until:
                with suppress(NanofluxError):
                    ask(place, each, "stop")  # the second one ends it at once
                time.sleep(0.1)
