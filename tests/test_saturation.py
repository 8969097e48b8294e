"""Saturation: a run whose attempts are nearly all rejected for one reason pauses, and says why."""

import asyncio
from pathlib import Path

import pytest

from nanoflux_local.config import RunConfig
from nanoflux_local.errors import SaturatedError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, runs
from nanoflux_local.run.saturation import RecentAttempts
from nanoflux_local.transcript import Attempt, Outcome, TurnRecord

NOTHING_IS_NOVEL = {"novelty": {"question": -1.0}, "seeds": {"min": 2}, "retries": {"validation": 3}}


def make_turn(number: int, *outcomes: Outcome) -> TurnRecord:
    attempts = tuple(Attempt(position, (), outcome) for position, outcome in enumerate(outcomes))
    return TurnRecord(number, "a", "b", "c", attempts)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    limits = {"pause_when_saturated": 20, "target": 100, "max_turns": 1000}
    return configs.resolve("starter-genetics", "scripted", limits, Home(tmp_path))


def test_saturation_is_reported_once_per_limit_with_its_forecast(config: RunConfig) -> None:
    recent_attempts = RecentAttempts()
    reports = {}
    for number in range(20):
        saturation = recent_attempts.add(make_turn(number, *["novelty_rejected"] * 4), config)
        if saturation:
            reports[number] = saturation
    assert list(reports) == [4, 9, 14, 19], "after 20 attempts, then after 20 more"
    assert reports[4].describe() == (
        "20 of the last 20 attempts ended as novelty rejected; at this rate the run keeps about 0 of 100 examples by "
        "its turn limit"
    )


def test_saturation_needs_one_reason_for_nearly_all_attempts(config: RunConfig) -> None:
    mixed, nearly_uniform = RecentAttempts(), RecentAttempts()
    for number in range(60):
        outcomes: tuple[Outcome, ...] = ("invalid",) if number % 10 == 0 else ("novelty_rejected",)
        assert mixed.add(make_turn(number, *outcomes), config) is None
    reports = [nearly_uniform.add(make_turn(0, "kept_failed"), config)]
    reports += [nearly_uniform.add(make_turn(number, "defender_right"), config) for number in range(1, 20)]
    assert reports[:-1] == [None] * 19 and reports[-1] is not None and reports[-1].rejected == 19


def test_run_that_reaches_its_target_at_the_rate_of_its_newest_turns_is_not_saturated(config: RunConfig) -> None:
    """One of 20 turns is kept: 1,000 turns give 50 examples."""
    reachable = config.model_copy(update={"target": 50})
    for settings, reported in ((config, True), (reachable, False)):
        recent_attempts, reports = RecentAttempts(), []
        for number in range(20):
            reports.append(recent_attempts.add(make_turn(number, "invalid" if number else "kept_failed"), settings))
        assert any(reports) is reported


def test_saturated_run_pauses_at_the_same_turn_at_any_concurrency_and_resumes(tmp_path: Path) -> None:
    states_at_pause = []
    for concurrency in (1, 8, 64):
        home = Home(tmp_path / str(concurrency)).prepare()
        settings = {**NOTHING_IS_NOVEL, "concurrency": concurrency, "pause_when_saturated": 24, "max_turns": 30}
        run = asyncio.run(runs.start(home, configs.resolve("starter-genetics", "scripted", settings, home)))
        for _ in range(2):
            with pytest.raises(SaturatedError, match="attempts ended as novelty rejected") as error:
                asyncio.run(runs.execute(home, run))
        assert f"nanoflux run resume {run}" in error.value.fix
        with LedgerView(home.ledger) as view:
            summary = view.summarize_run(run)
        assert summary.status == "paused" and "of 200 examples by its turn limit" in summary.message
        states_at_pause.append((summary.turns, summary.digest))
        runs.change(home, run, {"pause_when_saturated": 0})
        asyncio.run(runs.execute(home, run))
        with LedgerView(home.ledger) as view:
            assert view.summarize_run(run).status == "done"
    assert len(set(states_at_pause)) == 1
    turns, _ = states_at_pause[0]
    assert turns < 20
