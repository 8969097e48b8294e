"""Fixtures for tests of the terminal application: a home with finished jobs, of which each test gets a copy, and
drivers that press keys and read the screen.
"""

import asyncio
import gzip
import itertools
import os
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from nanoflux_local.experiments.planning import make_plan
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_tui.app import NanofluxApp
from nanoflux_tui.widgets.bars import ErrorBar

DRIVER_TIMEOUT_S = 60.0
"""Seconds that a `Driver` waits for the screen, which is enough on a loaded machine."""
TERMINAL_TIMEOUT_S = 240.0
"""Seconds that a `Terminal` waits for the screen; some tests wait for a model to load."""
RUN_SETTINGS = {"seeds": {"min": 2}, "concurrency": 4}
EXPERIMENT = "table1-tiny-01234567"
"""The id of the experiment in `home_with_results`."""


def generate_run(home: Home, name: str, turns: int, target: int, seed: int) -> str:
    """Generate a scripted run until it is done, and return its id."""
    settings = {**RUN_SETTINGS, "max_turns": turns, "target": target, "seed": seed}
    config = configs.resolve("starter-genetics", "scripted", settings, home)

    async def generate() -> str:
        run = await runs.start(home, config, name)
        await runs.execute(home, run)
        return run

    return asyncio.run(generate())


@pytest.fixture(scope="session")
def home_with_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two finished runs ("first" with 24 examples, "second" with 12), a paused training run with its curve,
    two evaluations of the same items, and a failed experiment.
    """
    home = Home(tmp_path_factory.mktemp("tui") / "home").prepare()
    with pytest.MonkeyPatch.context() as monkeypatch:  # the runs get fixed ids, which the snapshots show
        ids = itertools.count(1)
        sequential_ids = SimpleNamespace(token_hex=lambda _: f"{next(ids):08x}")
        monkeypatch.setattr("nanoflux_local.run.runs.secrets", sequential_ids)
        first_run = generate_run(home, "first", 60, 24, 7)
        second_run = generate_run(home, "second", 40, 12, 8)
    with Ledger(home.ledger) as ledger:
        _add_training(ledger, second_run)
        _add_evaluations(ledger)
        _add_experiment(ledger, first_run)
    return home.root


def _add_training(ledger: Ledger, run: str) -> None:
    """Add a training run on the examples of `run`, paused after 30 of 40 steps."""
    ledger.create_training("train-0123456789ab", run, "smollm2-135m", "0" * 64, {"epochs": 2}, {"source": {"run": run}})
    for step in range(1, 31):
        event = {"step": step, "steps": 40, "epoch": step / 20, "loss": 3.0 - step / 20, "learning_rate": 2e-4,
                 "grad_norm": 1.0, "tokens_per_s": 900.0}  # fmt: skip
        ledger.add_training_event("train-0123456789ab", "step", step, event)
    ledger.add_training_event("train-0123456789ab", "epoch", 20, {"step": 20, "epoch": 1, "val_loss": 2.4})
    ledger.finish_training("train-0123456789ab", "paused", "", {}, "", 75.0)


def _add_evaluations(ledger: Ledger) -> None:
    """Add an evaluation of the untuned model (4 of 20 items right) and one of an adapter (10 right). The adapter's
    evaluation gained 7 items and lost item 1.
    """
    call = ledger.rows("SELECT min(id) FROM calls")[0][0]
    for name, adapter, right_items in (
        ("aaaaaaaaaaaa", "", {1, 2, 3, 4}),
        ("bbbbbbbbbbbb", "f" * 64, set(range(2, 12))),
    ):
        ledger.start_evaluation(name, "smollm2-135m", adapter, "starter-easy", "test", {"n": 20, "runs": 1})
        for item in range(20):
            mark = "right" if item in right_items else "wrong"
            ledger.add_evaluation_item(name, 0, f"item-{item:02}", call, "7", mark)
        mean = len(right_items) / 20
        strict = {"mean": mean, "sd": 0.0, "ci95": [mean - 0.15, mean + 0.2]}
        ledger.finish_evaluation(name, "done", {"eval": name, "strict": strict, "by_run": [mean], "unscored": 0,
                                                "unanswered": 1})  # fmt: skip


def _add_experiment(ledger: Ledger, run: str) -> None:
    """Add the experiment table1 with results for the base and for the run's examples, and with a failed cell."""
    plan = make_plan("table1", "tiny", run)
    ledger.create_experiment(EXPERIMENT, plan.name, plan.scale_name, plan.model_dump(mode="json"))
    for condition, evaluation in (("base", "aaaaaaaaaaaa"), ("run", "bbbbbbbbbbbb")):
        training_result = {"training": "train-0123456789ab", "rows": 12, "tokens": 4000, "seconds": 9.0, "truncated": 0,
                   "flops": {"6nd": 1e12, "measured": 9e11}, "adapter": "f" * 64, "val_losses": []}  # fmt: skip
        evaluations_by_split = {split: dict.fromkeys(plan.scale.test, evaluation) for split in ("test", "dev")}
        result = {**(training_result if condition == "run" else {}), **evaluations_by_split}
        for cell in plan.cells:
            if cell.condition == condition:
                ledger.set_cell(EXPERIMENT, cell.id, "done", "", result)
    ledger.set_cell(EXPERIMENT, "random-0", "failed", "the disk is full")
    ledger.set_status("experiments", EXPERIMENT, "failed", "random-0: the disk is full", 75.0)


@pytest.fixture
def home(home_with_results: Path, tmp_path: Path) -> Home:
    """A copy of `home_with_results`, which the test may change."""
    shutil.copytree(home_with_results, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture
def empty_home(tmp_path: Path) -> Home:
    """A home without a ledger."""
    return Home(tmp_path / "empty").prepare()


@pytest.fixture(scope="session")
def find_run() -> Callable[[Home, str], str]:
    """A function that returns the id of the run with the given name."""

    def find(home: Home, name: str) -> str:
        with sqlite3.connect(home.ledger) as connection:
            return str(connection.execute("SELECT id FROM runs WHERE name = ?", (name,)).fetchone()[0])

    return find


class Driver:
    """Drives the application as a user does: presses keys and waits for text on the screen."""

    def __init__(self, pilot: Pilot[None]) -> None:
        self.pilot = pilot
        assert isinstance(pilot.app, NanofluxApp)
        self.app = pilot.app

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def set_value(self, selector: str, text: str) -> None:
        """Set the value of the input field that the selector matches."""
        self.app.screen.query_one(selector, Input).value = text
        await self.pilot.pause()

    async def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition is true. Fails after `DRIVER_TIMEOUT_S`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRIVER_TIMEOUT_S
        while not _is_true(condition):
            assert loop.time() < deadline, f"the condition did not become true; the screen:\n{self.text}"
            await self.pilot.pause(0.05)

    async def wait_for(self, *texts: str) -> None:
        """Wait until all of `texts` are on the screen."""
        await self.wait_until(lambda: all(text in self.text for text in texts))

    async def match_snapshot(self, snapshot: Path, folder: Path) -> bool:
        """Wait until the screen no longer changes, and return whether it equals the file `snapshot`. A screen that
        differs is written to `folder` for a comparison. With `NANOFLUX_SNAPSHOTS=write`, the screen is not compared but
        written to `snapshot`.
        """
        screenshot, previous = self.app.export_screenshot(title="NanoFlux"), ""
        while screenshot != previous:
            await self.pilot.pause(0.3)
            screenshot, previous = self.app.export_screenshot(title="NanoFlux"), screenshot
        if os.environ.get("NANOFLUX_SNAPSHOTS") == "write":
            snapshot.parent.mkdir(exist_ok=True)
            snapshot.write_bytes(gzip.compress(screenshot.encode(), mtime=0))
        elif not snapshot.is_file() or gzip.decompress(snapshot.read_bytes()).decode() != screenshot:
            (folder / snapshot.name.removesuffix(".gz")).write_text(screenshot)
            return False
        return True

    @property
    def text(self) -> str:
        """The text on the screen."""
        return "\n".join(strip.text.rstrip() for strip in self.app.screen._compositor.render_strips())

    @property
    def error(self) -> str:
        """The text of the visible error bar; "" if no error is shown."""
        return "\n".join(str(bar.content) for bar in self.app.screen.query(ErrorBar) if bar.has_class("shown"))


def _is_true(condition: Callable[[], object]) -> bool:
    """Whether the condition is true; False if it raises a LookupError, such as `table.keys[0]` on an empty table."""
    try:
        return bool(condition())
    except LookupError:
        return False


Flow = Callable[[Driver], Awaitable[None]]


@pytest.fixture(scope="session")
def drive() -> Callable[..., None]:
    """A function that runs the application (`app` may be a subclass) with a home, and awaits `flow(driver)`."""

    def drive_home(
        home: Home, flow: Flow, size: tuple[int, int] = (100, 36), light: bool = False,
        app: type[NanofluxApp] = NanofluxApp,
    ) -> None:  # fmt: skip
        async def drive_app() -> None:
            async with app(home, light).run_test(size=size, notifications=True) as pilot:
                await flow(Driver(pilot))

        asyncio.run(drive_app())

    return drive_home


class Terminal:
    """A real terminal of 120 x 40 cells: a window of a separate tmux server, whose socket is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start_count = 0
        self._tmux: list[str] = []

    def start(self, command: list[str], env: dict[str, str]) -> None:
        """Run the command in the terminal. Each start has its own server: an earlier one may still be ending."""
        self._start_count += 1
        self._tmux = ["tmux", "-S", str(self._folder / f"tmux{self._start_count}"), "-f", "/dev/null"]
        tmux_command = [*self._tmux, "new-session", "-d", "-x", "120", "-y", "40", *command]
        subprocess.run(tmux_command, check=True, env=env, stdin=subprocess.DEVNULL, timeout=60)

    def press(self, *keys: str) -> None:
        """Press keys, given by their names in tmux."""
        for key in keys:
            subprocess.run([*self._tmux, "send-keys", key], check=True, timeout=60)
            time.sleep(0.1)

    def type(self, text: str) -> None:
        subprocess.run([*self._tmux, "send-keys", "-l", text], check=True, timeout=60)

    def text(self) -> str:
        """The text on the screen."""
        result = subprocess.run([*self._tmux, "capture-pane", "-p"], capture_output=True, text=True, timeout=60)
        return result.stdout

    def pid(self) -> int:
        """The process id of the command."""
        tmux_command = [*self._tmux, "display-message", "-p", "#{pane_pid}"]
        return int(subprocess.check_output(tmux_command, text=True, timeout=60))

    def wait_for(self, *patterns: str) -> re.Match[str]:
        """Wait until all regular expressions in `patterns` match the screen. Returns the match of the last one."""
        deadline = time.monotonic() + TERMINAL_TIMEOUT_S
        while True:
            text = self.text()
            matches = [re.search(pattern, text) for pattern in patterns]
            if all(matches):
                assert matches[-1] is not None
                return matches[-1]
            assert time.monotonic() < deadline, f"{patterns} did not appear; the terminal:\n{text}"
            time.sleep(0.2)

    def close(self) -> None:
        """End the command and its server, if one was started."""
        if not self._tmux:
            return
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, timeout=60)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in which no command has been started yet."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed: apt-get install tmux")
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()
