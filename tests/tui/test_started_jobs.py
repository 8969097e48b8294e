"""The screens start jobs, servers and reports with real commands, and show their progress until they are done."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from nanoflux_local.jobs import EXPERIMENT, Job, current_execution
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_models.interpreter import VLLM_PYTHON_VARIABLE
from nanoflux_models.server_record import read_records
from nanoflux_models.supervisor import Supervisor
from nanoflux_models.weights import import_path
from nanoflux_tui.app import NanofluxApp
from nanoflux_tui.commands import BackgroundCommand
from nanoflux_tui.screens.experiment import ExperimentScreen
from nanoflux_tui.screens.run import RunScreen
from nanoflux_tui.widgets.window_table import WindowTable

Drive = Callable[..., None]
FindRun = Callable[[Home, str], str]
VLLM_STAND_IN = Path(__file__).parents[1] / "serving" / "stand_in"
"""The directory of a module `vllm` that answers as a vLLM server does."""
GRID = """
title = "A grid of two"
question = "Do two examples teach anything?"
compare = [["base", "run"]]

[[conditions]]
name = "base"
title = "the model as it is"

[[conditions]]
name = "run"
title = "the run's examples"
source = "run"

[scales.tiny]
base = "tiny"
domain = "starter"
profile = "scripted"
examples = 2
run = { seed = 7 }
train = { epochs = 1, max_length = 1024, val_fraction = 0 }
train_seeds = [0]
test = ["starter-easy"]
limit = 2
"""
"""An experiment with three cells, which take seconds: it generates a scripted run with two examples, evaluates the
base, and evaluates a model that was trained on these examples.
"""


@pytest.fixture
def opened_urls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs that the application has opened; no browser is started."""
    urls: list[str] = []
    monkeypatch.setattr(NanofluxApp, "open_url", lambda _app, url, **_options: urls.append(url))
    return urls


def test_experiment_is_started_killed_resumed_and_reported(
    drive: Drive, empty_home: Home, tiny_base: Path, tmp_path: Path, opened_urls: list[str]
) -> None:
    import_path(tiny_base, "tiny", empty_home.root)
    grid = tmp_path / "two.toml"
    grid.write_text(GRID)

    def kill_worker() -> None:
        """Kill the worker of the only experiment."""
        with LedgerView(empty_home.ledger) as view:
            row = view.row("SELECT id FROM experiments")
            execution = current_execution(view, Job(EXPERIMENT, row["id"])) if row else None
        assert execution is not None
        os.kill(execution.pid, signal.SIGKILL)

    async def flow(driver: Any) -> None:
        await driver.press("6")
        await driver.wait_for("No experiments yet", "table1", "Figure 4: loss curves")
        await driver.press("e")
        await driver.set_value("#f-grid", "nothing.toml")
        await driver.press("enter")
        await driver.wait_for("Failed", "nothing.toml")
        await driver.press("e")
        await driver.set_value("#f-grid", str(grid))
        await driver.press("enter")
        await driver.wait_for("● running", "two", "cells")
        kill_worker()
        await driver.wait_for("! interrupted", "its process ended; resume it")
        await driver.press("1")
        await driver.wait_for("! interrupted", "experiment", "two tiny")
        await driver.press("enter")
        await driver.wait_for("Do two examples teach anything?")
        await driver.press("space")
        await driver.wait_for(
            "✓ done  A grid of two", "3/3 cells", "the run's examples", "run − base", "Items that flipped"
        )
        await driver.press("space")
        await driver.wait_for("This experiment is done.")
        await driver.press("r")
        await driver.wait_until(lambda: opened_urls)

    drive(empty_home, flow, size=(120, 40))
    (url,) = opened_urls
    assert "Do two examples teach anything?" in Path(url.removeprefix("file://")).read_text()


def test_experiment_screen_shows_conditions_pairs_and_cells(drive: Drive, home: Home) -> None:
    async def flow(driver: Any) -> None:
        await driver.press("6")
        await driver.wait_for("✗ failed", "table1", "3/7 cells, 1 failed", "random-0: the disk is full")
        await driver.press("enter")
        await driver.wait_until(lambda: isinstance(driver.app.screen, ExperimentScreen))
        await driver.wait_for("20.0%", "5.0% to 40.0%", "run − base", "+30.0%", "No difference is significant")
        await driver.wait_for("lost 1 item and gained 7", "not done yet", "✗ failed", "○ waiting")
        await driver.press("escape")
        await driver.wait_for("Available experiments")

    drive(home, flow, size=(120, 50))


def test_training_and_evaluation_start_from_their_forms_and_finish(drive: Drive, home: Home, tiny_base: Path) -> None:
    import_path(tiny_base, "tiny", home.root)

    async def flow(driver: Any) -> None:
        await driver.press("3")
        await driver.wait_for("train-0123456789ab")
        await driver.press("t")
        await driver.set_value("#run", "second")
        await driver.set_value("#size", "4")
        await driver.set_value("#mix", "starter=0.5")
        await driver.set_value("#epochs", "1")
        await driver.set_value("#settings", "max_length=1024 val_fraction=0 batch=2")
        await driver.wait_for("$ nanoflux train second --base tiny --size 4 --mix starter=0.5", "mixed in", "expected")
        await driver.press("ctrl+s")
        await driver.wait_until(lambda: driver.app.current_mode == "training" and len(driver.app.screen_stack) == 1)
        await driver.wait_for("✓ done", "train loss", "tokens/s")
        await driver.wait_until(lambda: len(driver.app.screen.query_one("#adapters", WindowTable).keys) == 1)
        await driver.press("4", "e")
        await driver.set_value("#f-data", "nothing")
        await driver.press("enter")
        await driver.wait_for("evaluating tiny:", "nothing")  # the notification of the failed background command
        await driver.press("e")
        await driver.wait_until(lambda: driver.app.screen.query_one("#f-limit", Input))
        await driver.set_value("#f-limit", "2")
        await driver.set_value("#f-runs", "1")
        await driver.press("enter")
        earlier_evaluations = ("aaaaaaaaaaaa", "bbbbbbbbbbbb")
        await driver.wait_until(
            lambda: driver.app.screen.query_one("#evaluations", WindowTable).keys[0] not in earlier_evaluations
        )
        await driver.wait_until(lambda: "tiny" in driver.text and driver.text.count("✓ done") == 3)

    drive(home, flow, size=(120, 40))


def test_models_screen_shows_gauges_and_the_progress_of_commands(
    drive: Drive, empty_home: Home, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    progress_line = "downloading own 120/500 MiB, 12.3 MiB/s, 31 s left"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["sh", "-c", f"echo installing; echo '{progress_line}'; exec sleep 600"], stdout=file
        )

    async def flow(driver: Any) -> None:
        driver.app.commands.background.append(BackgroundCommand("pulling own", process, log, ()))
        await driver.press("5")
        await driver.wait_for(
            "memory ", "GiB free", "● running  pulling own  ━━━───", " 120/500 MiB, 12.3 MiB/s, 31 s left"
        )

    try:
        drive(empty_home, flow, size=(80, 24))
    finally:
        process.kill()
        process.wait()


def test_model_is_planned_verified_served_and_stopped(
    drive: Drive, empty_home: Home, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_path(tiny_base, "smollm2-135m", empty_home.root)  # this model has a manifest, which `models serve` needs
    python = tmp_path / "python"
    python.write_text(
        f"#!/bin/sh\nexport PYTHONPATH='{VLLM_STAND_IN}'\ncd '{tmp_path}' && exec '{sys.executable}' \"$@\"\n"
    )
    python.chmod(0o700)
    monkeypatch.setenv(VLLM_PYTHON_VARIABLE, str(python))

    async def flow(driver: Any) -> None:
        await driver.press("5")
        await driver.wait_for("smollm2-135m", "No server is running")
        await driver.wait_until(lambda: _select_model(driver, "smollm2-135m"))
        await driver.press("g")
        await driver.set_value("#f-gpus", "40,40")
        await driver.press("enter")
        await driver.wait_for("models plan a100-40g-x2 --gpus 40,40", "utilisation")
        await driver.press("escape", "p")
        await driver.wait_for("The weights of smollm2-135m are installed")
        await driver.press("v")
        await driver.wait_for("✓ done  verifying smollm2-135m: smollm2-135m: intact")
        await driver.press("s")
        await driver.wait_for("Serve smollm2-135m")
        await driver.press("enter")
        await driver.wait_for("● ready", "http://127.0.0.1:", "✓ done  serving smollm2-135m")
        await driver.press("1")
        await driver.wait_for("server", "smollm2-135m", "● ready")
        await driver.press("5", "x")
        await driver.wait_for("Stop the server smollm2-135m?")
        await driver.press("y")
        await driver.wait_for("No server is running")

    try:
        drive(empty_home, flow, size=(120, 40))
        assert not read_records(empty_home.root)
    finally:
        for record in read_records(empty_home.root):
            Supervisor(empty_home.root).stop(record, grace_s=1.0)


def _select_model(driver: Any, model: str) -> bool:
    """Move the cursor to the row of a model. Returns whether the cursor is there."""
    table = driver.app.screen.query_one("#weights", WindowTable)
    table.cursor = list(table.keys).index(model)
    return bool(table.selected_key == model)


def test_run_report_is_written_and_opened(drive: Drive, home: Home, find_run: FindRun, opened_urls: list[str]) -> None:
    run = find_run(home, "first")

    async def flow(driver: Any) -> None:
        driver.app.push_screen(RunScreen(run))
        await driver.wait_for("✓ done")
        await driver.press("r")
        await driver.wait_until(lambda: opened_urls)

    drive(home, flow)
    assert opened_urls == [f"file://{home.reports / run / 'index.html'}"]
    assert "first" in (home.reports / run / "index.html").read_text()
