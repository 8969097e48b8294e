"""Saturation: a run pauses and says why if nearly all its recent attempts are rejected for the same reason."""

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
"""Settings under which every question after the first is too similar to an earlier one."""


def make_turn(number: int, *outcomes: Outcome) -> TurnRecord:
    """The record of a turn whose attempts have these outcomes."""
    attempts = tuple(Attempt(attempt_number, (), outcome) for attempt_number, outcome in enumerate(outcomes))
    return TurnRecord(number, "attacker", "defender", "judge", attempts)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """The configuration of a run that pauses after 20 attempts if it is saturated."""
    limits = {"pause_when_saturated": 20, "target": 100, "max_turns": 1000}
    return configs.resolve("starter-genetics", "scripted", limits, Home(tmp_path))


def test_saturation_is_reported_after_every_20_attempts_with_a_forecast(config: RunConfig) -> None:
    recent_attempts = RecentAttempts()
    saturation_by_turn = {}
    for number in range(20):
        saturation = recent_attempts.add(make_turn(number, *["novelty_rejected"] * 4), config)
        if saturation:
            saturation_by_turn[number] = saturation
    assert list(saturation_by_turn) == [4, 9, 14, 19], "saturation is not reported after every 20 attempts"
    assert saturation_by_turn[4].describe() == (
        "20 of the last 20 attempts ended as novelty rejected; at this rate the run keeps about 0 of 100 examples by "
        "its turn limit"
    )


def test_saturation_requires_nearly_all_attempts_to_be_rejected_for_one_reason(config: RunConfig) -> None:
    """In the first sequence of attempts, 10% differ from the others; in the second, 5% (one of 20)."""
    ten_percent_differ, five_percent_differ = RecentAttempts(), RecentAttempts()
    for number in range(60):
        outcome: Outcome = "invalid" if number % 10 == 0 else "novelty_rejected"
        assert ten_percent_differ.add(make_turn(number, outcome), config) is None
    reports = [five_percent_differ.add(make_turn(0, "kept_failed"), config)]
    reports += [five_percent_differ.add(make_turn(number, "defender_right"), config) for number in range(1, 20)]
    assert reports[:-1] == [None] * 19 and reports[-1] is not None and reports[-1].rejected == 19


def test_run_that_reaches_its_target_at_the_rate_of_its_recent_turns_is_not_saturated(config: RunConfig) -> None:
    """One of 20 turns is kept, so 1,000 turns give 50 examples: too few for a target of 100, but enough for 50."""
    reachable_config = config.model_copy(update={"target": 50})
    for tested_config, is_saturated in ((config, True), (reachable_config, False)):
        recent_attempts = RecentAttempts()
        reports = [recent_attempts.add(make_turn(0, "kept_failed"), tested_config)]
        reports += [recent_attempts.add(make_turn(number, "invalid"), tested_config) for number in range(1, 20)]
        assert any(reports) is is_saturated


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
