"""Comparing two runs or two training runs, on the command line and in the TUI."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from nanoflux_local.cli.main import nanoflux
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_tui.screens.run import RunScreen

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]
TRAINING, SECOND_TRAINING = "train-0123456789ab", "train-ba9876543210"
"""The ids of the training run in the home, and of the one that `add_second_training` adds."""


def add_second_training(home: Home) -> None:
    """Add a second training run with a different number of epochs and different losses."""
    with Ledger(home.ledger) as ledger:
        ledger.create_training(
            SECOND_TRAINING, "", "smollm2-135m", "0" * 64, {"epochs": 3}, {"source": {"file": "rows.jsonl"}}
        )
        for step in range(1, 11):
            event = {"step": step, "steps": 10, "epoch": 1, "loss": 2.0 - step / 10, "tokens_per_s": 800.0}
            ledger.add_training_event(SECOND_TRAINING, "step", step, event)


def run_cli(home: Home, *arguments: str) -> str:
    """Run a `nanoflux` command, which must succeed, and return its standard output."""
    result = CliRunner().invoke(nanoflux, arguments, env={"NANOFLUX_HOME": str(home.root)})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_run_compare_shows_figures_curves_and_only_settings_that_differ(home: Home, find_run: FindRun) -> None:
    first_run, second_run = find_run(home, "first"), find_run(home, "second")
    comparison = json.loads(run_cli(home, "run", "compare", "first", second_run, "--json"))
    assert comparison["first"] == first_run and comparison["second"] == second_run
    values_by_key = {setting["key"]: (setting["first"], setting["second"]) for setting in comparison["settings"]}
    assert values_by_key == {"seed": (7, 8), "target": (24, 12), "max_turns": (60, 40)}
    assert comparison["figures"]["kept"] == [24, 12]
    first_summary = json.loads(run_cli(home, "run", "show", first_run, "--json"))
    assert comparison["figures"]["turns"][0] == first_summary["turns"] == len(comparison["curves"][0]["x"])
    assert comparison["figures"]["invalid"][0] == first_summary["funnel"]["invalid"]
    assert [curve["y"][-1] for curve in comparison["curves"]] == [24, 12]
    table = run_cli(home, "run", "compare", first_run, second_run)
    assert ["seed", "7", "8"] in [line.split() for line in table.splitlines()]


def test_trainings_compare_shows_losses_and_settings(home: Home) -> None:
    add_second_training(home)
    comparison = json.loads(run_cli(home, "trainings", "compare", TRAINING, SECOND_TRAINING, "--json"))
    assert comparison["settings"] == [{"key": "epochs", "first": 2, "second": 3}]
    assert comparison["figures"]["train loss"] == [1.5, 1.0] and comparison["figures"]["dev loss"] == [2.4, None]
    assert [curve["name"] for curve in comparison["curves"]] == [
        f"{TRAINING} train",
        f"{TRAINING} dev",
        f"{SECOND_TRAINING} train",
    ]


async def show_next_to_second(driver: Any, run: str) -> None:
    """Open the screen of a run, and from there its comparison with the run named "second"."""
    driver.app.push_screen(RunScreen(run))
    await driver.wait_for("24 of 24")
    await driver.press("b")
    await driver.wait_for("Show this run next to", "second")
    await driver.press("enter")


def test_two_runs_are_shown_side_by_side(drive: Drive, home: Home, find_run: FindRun) -> None:
    async def flow(driver: Any) -> None:
        await show_next_to_second(driver, find_run(home, "first"))
        await driver.wait_for("kept examples", "turn", "first (starter", "second (starter", "Figures", "status")
        await driver.wait_for("attack unreadable", "too similar", "question invalid")
        await driver.press("end")
        await driver.wait_for("Settings that differ", "seed", "max_turns")
        await driver.press("escape")
        await driver.wait_for("24 of 24")

    drive(home, flow, size=(80, 24))


def test_two_training_runs_are_shown_side_by_side(drive: Drive, home: Home) -> None:
    add_second_training(home)

    async def flow(driver: Any) -> None:
        await driver.press("3")
        await driver.wait_for("10/10")
        await driver.press("b")
        await driver.wait_for(f"Show {SECOND_TRAINING} next to", TRAINING)
        await driver.press("enter")
        await driver.wait_for(
            f"{SECOND_TRAINING} train", f"{TRAINING} dev", "loss", "step", "Settings that differ", "epochs"
        )

    drive(home, flow, size=(120, 40))


def test_refresh_reads_only_the_side_that_changed(drive: Drive, home: Home, find_run: FindRun) -> None:
    first_run, second_run = find_run(home, "first"), find_run(home, "second")
    read_runs: list[str] = []

    async def flow(driver: Any) -> None:
        await show_next_to_second(driver, first_run)
        await driver.wait_for("Figures", "kept examples")
        await driver.wait_until(lambda: {first_run, second_run} <= set(read_runs))
        await driver.app.visible_screen.refresh_content()
        read_runs.clear()
        with sqlite3.connect(home.ledger) as connection:
            connection.execute(
                "INSERT INTO turns (run, number, outcome, kept, record, record_hash, at, attempts, uses, fresh)"
                " SELECT run, number + 1, outcome, kept, record, record_hash, at, attempts, uses, fresh FROM turns"
                " WHERE run = ? ORDER BY number DESC LIMIT 1", (second_run,),
            )  # fmt: skip
        connection.close()
        await driver.wait_until(lambda: read_runs)
        await driver.app.visible_screen.refresh_content()
        assert set(read_runs) == {second_run}

    original_funnel = LedgerView.funnel

    def record_run_and_read_funnel(view: LedgerView, run: str) -> dict[str, int]:
        read_runs.append(run)
        return original_funnel(view, run)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(LedgerView, "funnel", record_run_and_read_funnel)
        drive(home, flow, size=(120, 40))


def test_comparison_shows_a_killed_run_as_interrupted_and_its_time_until_the_last_heartbeat(
    home: Home, find_run: FindRun
) -> None:
    run = find_run(home, "first")
    with Ledger(home.ledger) as ledger:
        execution_id = ledger.start_execution("run", run, 1, "an earlier boot", "runs")
    with sqlite3.connect(home.ledger) as connection:
        connection.execute("UPDATE jobs SET began_s = 100.0, beat_s = 160.0 WHERE id = ?", (execution_id,))
        connection.execute("UPDATE runs SET seconds = 5.0 WHERE id = ?", (run,))
    connection.close()
    figures = json.loads(run_cli(home, "run", "compare", "first", "second", "--json"))["figures"]
    assert figures["status"] == ["interrupted", "done"]
    assert figures["seconds"][0] == 65.0, "expected the recorded 5 s, and 60 s until the last heartbeat"


def test_column_titles_truncate_long_ids_at_the_start(drive: Drive, home: Home, find_run: FindRun) -> None:
    first_run, second_run = find_run(home, "first"), find_run(home, "second")

    async def flow(driver: Any) -> None:
        await show_next_to_second(driver, first_run)
        await driver.wait_for("Figures", f"{first_run[-8:]}  ", f"{second_run[-8:]}  ", "…")

    drive(home, flow, size=(100, 40))
