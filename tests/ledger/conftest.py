"""Fixtures for the tests of the ledger: a new ledger, turns to commit, and a finished run to read or change."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.transcript import Attack, Attempt, Defence, Outcome, TurnRecord, Verdict

CONFIG = {"domain": "starter-genetics", "target": 5, "max_turns": 9, "seed": 0}
"""The configuration of the run in a new ledger, reduced to the keys that `Ledger.create_run` reads."""
ORIGINAL_RUN_SETTINGS = {"seed": 7, "max_turns": 16, "judge": {"strikes": 1}, "retries": {"parse": 0, "validation": 0}}
"""The settings of the original run: one attempt per turn and one judgement per question, so that some turns are kept
and some are not.
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the ledger, which need not exist."""
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """A new ledger with one run, whose id is "run"."""
    with Ledger(path) as ledger:
        ledger.create_run("run", "a name", CONFIG, {"identities": {}})
        yield ledger


def make_turn(number: int, *outcomes: Outcome, question: str = "How many?") -> TurnRecord:
    """A turn with one attempt for each outcome. Every attempt has all the fields of a kept attempt, whatever its
    outcome.
    """
    attempts = tuple(
        Attempt(
            attempt_number, ("seed-1", "seed-2"), outcome,
            attack=Attack(f"{question} ({number}.{attempt_number})", "2 + 2 = 4.", "4", notes={"REFLECTION": "easy"}),
            nearest=0.25, validation=Verdict(True, 0.97, "it holds"),
            defence=Defence("2 + 2 = 5.", "5", "add", cut=("ANALYSIS",)),
            evaluation=Verdict(False, 0.95, "it is 4", soft=False),
        )
        for attempt_number, outcome in enumerate(outcomes)
    )  # fmt: skip
    return TurnRecord(number, "one", "other", "judge", attempts)


@pytest.fixture
def new_turn() -> Callable[..., TurnRecord]:
    """The function `make_turn`, for tests outside this module."""
    return make_turn


@dataclass
class ScriptedRun:
    """A finished run with scripted endpoints, in its own home."""

    home: Home
    run: str

    @property
    def path(self) -> Path:
        """The path of the ledger."""
        return self.home.ledger


@pytest.fixture(scope="session")
def original_run(tmp_path_factory: pytest.TempPathFactory) -> ScriptedRun:
    """A run that is generated once per session. Tests that change it use `run_copy`."""
    home = Home(tmp_path_factory.mktemp("original") / "home").prepare()
    config = configs.resolve("starter-genetics", "scripted", ORIGINAL_RUN_SETTINGS, home)

    async def generate_run() -> str:
        run = await runs.start(home, config, "tour")
        await runs.execute(home, run)
        return run

    return ScriptedRun(home, asyncio.run(generate_run()))


@pytest.fixture
def run_copy(original_run: ScriptedRun, tmp_path: Path) -> ScriptedRun:
    """A copy of the original run that a test may change."""
    shutil.copytree(original_run.home.root, tmp_path / "copy")
    return ScriptedRun(Home(tmp_path / "copy"), original_run.run)
