"""Forecasts: their intervals have the stated coverage, and there is no forecast in the first turns or after the run's
end.
"""

import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from nanoflux_local.cli.main import nanoflux
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.run import configs, forecast, runs
from tests.executed_runs import execute_run


def draw_turns(rng: np.random.Generator, keep_probability: float, turn_count: int) -> forecast.RecentTurns:
    """Random turns; their mean costs are 10 seconds, 600 tokens and 0.02 dollars."""
    kept = rng.random(turn_count) < keep_probability
    return forecast.RecentTurns(kept, costs=rng.gamma(2.0, [5.0, 300.0, 0.01], (turn_count, 3)))


@pytest.mark.parametrize(("keep_probability", "turn_count"), [(0.3, 30), (0.7, 60)])
def test_forecast_intervals_have_their_stated_coverage(keep_probability: float, turn_count: int) -> None:
    rng = np.random.default_rng(7)
    examples_needed, repetitions = 40, 200
    covered_counts = {"turns": 0, "tokens": 0}
    for _ in range(repetitions):
        turns = draw_turns(rng, keep_probability, turn_count)
        spans = asdict(forecast.predict(turns, examples_needed, 10**6))
        turns_needed = examples_needed + rng.negative_binomial(examples_needed, keep_probability)
        tokens_needed = rng.gamma(2.0, 300.0, turns_needed).sum()
        for name, value in (("turns", turns_needed), ("tokens", tokens_needed)):
            covered_counts[name] += spans[name]["low"] <= value <= spans[name]["high"]
    shares = {name: count / repetitions for name, count in covered_counts.items()}
    assert all(0.83 < share < 0.97 for share in shares.values()), shares  # the stated coverage is 0.9


def test_turn_limit_caps_the_forecast_and_lowers_the_probability_of_reaching_the_target() -> None:
    turns = draw_turns(np.random.default_rng(1), 0.5, 100)
    unlimited, limited = (asdict(forecast.predict(turns, 50, limit)) for limit in (10**6, 90))
    assert unlimited["reaches_target"] == 1.0 and unlimited["turns"]["low"] < 100 < unlimited["turns"]["high"]
    assert 0.01 < limited["reaches_target"] < 0.5 and limited["turns"]["high"] == 90
    assert limited["tokens"]["expected"] < unlimited["tokens"]["expected"]
    assert asdict(forecast.predict(turns, 50, 90)) == limited


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def execute(home: Home, **settings: Any) -> tuple[str, dict[str, Any]]:
    """Execute a run to its end, then raise its limits so that it could continue. Returns its id, and its summary with
    the forecast up to the new limits.
    """
    shared = {"seed": 5, "seeds": {"min": 2}, "concurrency": 1}
    config = configs.resolve("starter-genetics", "scripted", {**shared, **settings}, home)
    run = execute_run(home, config)
    runs.change(home, run, {"max_turns": 1000, "target": 200})
    with LedgerView(home.ledger) as view:
        summary = view.summarize_run(run)
        run_forecast = forecast.forecast(view, forecast.RunPosition.of(summary))
        return run, {**summary.to_json(), "forecast": asdict(run_forecast)}


def test_forecast_extrapolates_the_costs_of_the_committed_turns(home: Home) -> None:
    _, summary = execute(home, max_turns=30)
    run_forecast = summary["forecast"]
    kept_per_hour = summary["kept"] / summary["seconds"] * 3600
    assert run_forecast["reason"] == "" and run_forecast["kept_per_hour"] == pytest.approx(kept_per_hour, 1e-3)
    expected_turns = (200 - summary["kept"]) * 30 / summary["kept"]
    tokens_per_turn = (summary["usage"]["prompt_tokens"] + summary["usage"]["completion_tokens"]) / 30
    seconds_per_turn = summary["seconds"] / 30
    assert run_forecast["turns"]["low"] < expected_turns < run_forecast["turns"]["high"]
    assert run_forecast["tokens"]["low"] < tokens_per_turn * expected_turns < run_forecast["tokens"]["high"]
    assert run_forecast["seconds"]["low"] < seconds_per_turn * expected_turns < run_forecast["seconds"]["high"]
    assert run_forecast["usd"] == {"expected": 0.0, "low": 0.0, "high": 0.0}


def test_forecast_counts_cached_calls_at_full_cost(home: Home) -> None:
    _, first_summary = execute(home, max_turns=30)
    _, repeated_summary = execute(home, max_turns=30)
    assert repeated_summary["calls"]["made"] == 0
    assert repeated_summary["forecast"]["tokens"] == first_summary["forecast"]["tokens"]


@pytest.mark.parametrize("counts_as_running", [True, False], ids=["stall", "pause"])
def test_forecast_ignores_the_time_of_a_stall_or_a_pause(home: Home, counts_as_running: bool) -> None:
    """The second half of the run is moved two hours later. A stalled run counts these hours as working time."""
    run, summary = execute(home, max_turns=30)
    two_hours_later = "strftime('%Y-%m-%dT%H:%M:%f+00:00', at, '+2 hours')"
    with sqlite3.connect(home.ledger) as connection:
        middle_time = connection.execute("SELECT at FROM turns WHERE number = 15").fetchone()[0]
        for table in ("turns", "calls"):
            connection.execute(f"UPDATE {table} SET at = {two_hours_later} WHERE at >= ?", (middle_time,))
        connection.execute("UPDATE runs SET seconds = seconds + ?", (7200.0 if counts_as_running else 0.0,))
    connection.close()
    with LedgerView(home.ledger) as view:
        position = forecast.RunPosition.of(view.summarize_run(run))
        run_forecast = asdict(forecast.forecast(view, position))
    assert run_forecast["seconds"]["expected"] == pytest.approx(summary["forecast"]["seconds"]["expected"], rel=0.2)


def test_forecast_says_in_the_first_turns_that_it_is_too_early(home: Home) -> None:
    _, result = execute(home, max_turns=5)
    assert result["forecast"]["turns"] is None and "too early" in result["forecast"]["reason"]


def test_run_show_prints_the_forecast_until_the_run_ends(home: Home) -> None:
    def show() -> str:
        return CliRunner().invoke(nanoflux, ["run", "show", run], env={"NANOFLUX_HOME": str(home.root)}).output

    run, _ = execute(home, max_turns=30)
    assert "likely to reach the target" in show() and " to " in show() and "minutes" in show()
    runs.change(home, run, {"max_turns": 30})
    assert "likely to reach the target" not in show() and "kept per hour" in show()
