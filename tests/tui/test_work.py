"""Work that is begun from the rooms by the commands themselves, and seen to its end there: an experiment that is killed
on its way, a training, an evaluation, a server, a plan, weights, reports."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from nanoflux_local.jobs import EXPERIMENT, Work, current_job
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_models.interpreter import VARIABLE
from nanoflux_models.server_record import records
from nanoflux_models.supervisor import Supervisor
from nanoflux_models.weights import import_path
from nanoflux_tui.app import NanofluxApp
from nanoflux_tui.screens.experiment import ExperimentRoom
from nanoflux_tui.screens.run import RunRoom
from nanoflux_tui.widgets.window_table import WindowTable

Sit = Callable[..., None]
STAND_IN = Path(__file__).parents[1] / "serving" / "stand_in"
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


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that were opened in a browser."""
    pages: list[str] = []
    monkeypatch.setattr(NanofluxApp, "open_url", lambda _, url, **__: pages.append(url))
    return pages


def test_an_experiment_is_begun_killed_gone_on_with_and_reported(
    sit: Sit, empty: Home, tiny_base: Path, tmp_path: Path, opened: list[str]
) -> None:
    import_path(tiny_base, "tiny", empty.root)
    grid = tmp_path / "two.toml"
    grid.write_text(GRID)

    def kill() -> None:
        with LedgerView(empty.ledger) as view:
            row = view.row("SELECT id FROM experiments")
            job = current_job(view, Work(EXPERIMENT, row["id"])) if row else None
        assert job is not None
        os.kill(job["pid"], signal.SIGKILL)

    async def flow(seat: Any) -> None:
        await seat.press("6")
        await seat.sees("No experiment yet: e begins one", "table1", "Figure 4: loss curves")
        await seat.press("e")
        await seat.type("#f-grid", "nothing.toml")
        await seat.press("enter")
        await seat.sees("Not done", "nothing.toml")
        await seat.press("e")
        await seat.type("#f-grid", str(grid))
        await seat.press("enter")
        await seat.sees("● running", "two", "cells")
        kill()
        await seat.sees("! interrupted", "its process ended; resume it")
        await seat.press("1")
        await seat.sees("! interrupted", "experiment", "two tiny")
        await seat.press("enter")
        await seat.sees("Do two examples teach anything?")
        await seat.press("space")
        await seat.sees("✓ done  A grid of two", "3/3 cells", "the run's examples", "run − base", "Items that flipped")
        await seat.press("space")
        await seat.sees("It is done: r writes its report.")
        await seat.press("r")
        await seat.until(lambda: opened)

    sit(empty, flow, size=(120, 40))
    (page,) = opened
    assert "Do two examples teach anything?" in Path(page.removeprefix("file://")).read_text()


def test_an_experiment_shows_its_table_its_pairs_and_its_cells(sit: Sit, home: Home) -> None:
    async def flow(seat: Any) -> None:
        await seat.press("6")
        await seat.sees("✗ failed", "table1", "3/7 cells, 1 failed", "random-0: the disk is full")
        await seat.press("enter")
        await seat.until(lambda: isinstance(seat.app.screen, ExperimentRoom))
        await seat.sees("20.0%", "5.0% to 40.0%", "not done yet", "run − base", "+30.0%", "No difference was shown",
                        "lost 1 item and gained 7", "✗ failed", "○ waiting")  # fmt: skip
        await seat.press("escape")
        await seat.sees("What can be asked")

    sit(home, flow, size=(120, 50))


def test_a_training_and_an_evaluation_are_begun_from_their_forms_and_seen_to_their_ends(
    sit: Sit, home: Home, tiny_base: Path
) -> None:
    import_path(tiny_base, "tiny", home.root)

    async def flow(seat: Any) -> None:
        await seat.press("3")
        await seat.sees("train-0123456789ab")
        await seat.press("t")
        await seat.type("#run", "second")
        await seat.type("#size", "4")
        await seat.type("#epochs", "1")
        await seat.type("#settings", "max_length=1024 val_fraction=0 batch=2")
        await seat.sees("$ nanoflux train second --base tiny --size 4", "it takes")
        await seat.press("ctrl+s")
        await seat.until(lambda: seat.app.current_mode == "training" and len(seat.app.screen_stack) == 1)
        await seat.sees("✓ done", "train loss", "tokens/s")
        await seat.until(lambda: len(seat.app.screen.query_one("#adapters", WindowTable).keys) == 1)
        await seat.press("4", "e")
        await seat.type("#f-data", "nothing")
        await seat.press("enter")
        await seat.sees("evaluating tiny:", "nothing")  # what fails out of sight is told
        await seat.press("e")
        await seat.until(lambda: seat.app.screen.query_one("#f-limit", Input))
        await seat.type("#f-limit", "2")
        await seat.type("#f-runs", "1")
        await seat.press("enter")
        await seat.until(lambda: seat.app.screen.query_one("#evaluations", WindowTable).keys[0] not in (
            "aaaaaaaaaaaa", "bbbbbbbbbbbb"))  # fmt: skip
        await seat.until(lambda: "tiny" in seat.text and seat.text.count("✓ done") == 3)

    sit(home, flow, size=(120, 40))


def test_a_model_is_planned_pulled_verified_served_and_its_server_stopped(
    sit: Sit, empty: Home, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_path(tiny_base, "smollm2-135m", empty.root)  # under that name, so that a manifest says what to serve
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexport PYTHONPATH='{STAND_IN}'\ncd '{tmp_path}' && exec '{sys.executable}' \"$@\"\n")
    python.chmod(0o700)
    monkeypatch.setenv(VARIABLE, str(python))

    async def flow(seat: Any) -> None:
        await seat.press("5")
        await seat.sees("smollm2-135m", "No server is running")
        await seat.until(lambda: _points_at(seat, "smollm2-135m"))
        await seat.press("g")
        await seat.type("#f-gpus", "40,40")
        await seat.press("enter")
        await seat.sees("models plan a100-40g-x2 --gpus 40,40", "utilisation")
        await seat.press("escape", "p")
        await seat.sees("Fetch the weights of smollm2-135m")
        await seat.press("y")
        await seat.sees("✓ done  pulling smollm2-135m: smollm2-135m is installed and intact")
        await seat.press("v")
        await seat.sees("✓ done  verifying smollm2-135m: smollm2-135m: intact")
        await seat.press("s")
        await seat.sees("Serve smollm2-135m")
        await seat.press("enter")
        await seat.sees("● ready", "http://127.0.0.1:", "✓ done  serving smollm2-135m")
        await seat.press("1")
        await seat.sees("server", "smollm2-135m", "● ready")
        await seat.press("5", "x")
        await seat.sees("Stop the server smollm2-135m?")
        await seat.press("y")
        await seat.sees("No server is running")

    try:
        sit(empty, flow, size=(120, 40))
        assert not records(empty.root)
    finally:
        for record in records(empty.root):
            Supervisor(empty.root).stop(record, grace_s=1.0)


def _points_at(seat: Any, model: str) -> bool:
    table = seat.app.screen.query_one("#weights", WindowTable)
    table.cursor = list(table.keys).index(model)
    return bool(table.key == model)


def test_a_runs_report_is_written_and_opened(
    sit: Sit, home: Home, run_named: Callable[[Home, str], str], opened: list[str]
) -> None:
    run = run_named(home, "first")

    async def flow(seat: Any) -> None:
        seat.app.push_screen(RunRoom(run))
        await seat.sees("✓ done")
        await seat.press("r")
        await seat.until(lambda: opened)

    sit(home, flow)
    assert opened == [f"file://{home.reports / run / 'index.html'}"]
    assert "first" in (home.reports / run / "index.html").read_text()
