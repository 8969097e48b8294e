"""Fixtures for the tests of experiments: a home with a base that can be trained in a second, and a small grid whose
run is scripted.
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanoflux_local.experiments.experiment import LocalWorkers, create_experiment, run_remaining_cells
from nanoflux_local.experiments.grid import GridPlan
from nanoflux_local.experiments.planning import make_plan
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_models.weights import import_path

SMALL_GRID = """
title = "A small grid"
question = "Do the run's examples help more than random ones?"
paper = "table1"
select = true
compare = [["base", "run"], ["random", "run"], ["run-2", "run-3"]]

[[conditions]]
name = "base"
title = "the model as it is"

[[conditions]]
name = "random"
title = "an equal number of random examples"
source = "benchmark"
size = "run"

[[conditions]]
name = "run"
title = "the run's examples"
source = "run"

[[conditions]]
name = "run-{value}"
source = "run"
each = "sizes"

[scales.tiny]
base = "tiny"
domain = "starter"
profile = "scripted"
examples = 3
run = { seed = 7 }
train = { epochs = 1, max_length = 1024, val_fraction = 0 }
train_seeds = [0, 1]
test = ["starter-easy"]
dev = ["starter-easy"]
limit = 3
sizes = [2, 99]
"""
"""A grid that trains within seconds. Its run has three examples, so the conditions of size 99 are left out."""


@pytest.fixture(scope="session")
def create_home(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory):
    """A function that creates a new home in which the tiny base is installed."""
    installed_root = tmp_path_factory.mktemp("home") / "home"
    import_path(tiny_base, "tiny", Home(installed_root).prepare().root)

    def copy_home() -> Home:
        root = tmp_path_factory.mktemp("home") / "home"
        shutil.copytree(installed_root, root)
        return Home(root)

    return copy_home


@pytest.fixture(scope="session")
def grid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the grid "small"."""
    path = tmp_path_factory.mktemp("grids") / "small.toml"
    path.write_text(SMALL_GRID, encoding="utf-8")
    return path


def run_until_killed(home: Home, grid: Path, message: str) -> None:
    """Start the experiment in a separate process, and kill the process once it has printed `message`."""
    command = [sys.executable, "-m", "nanoflux_local.cli", "--home", str(home.root), "experiment", "run", str(grid)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    printed_lines = []
    for line in process.stderr:
        printed_lines.append(line)
        if message in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, "".join(printed_lines)


@pytest.fixture(scope="session")
def plan(grid_file: Path) -> GridPlan:
    """The plan of the grid "small"."""
    return make_plan(str(grid_file), "tiny")


@pytest.fixture(scope="session")
def resumed_experiment(create_home, grid_file: Path, plan: GridPlan) -> tuple[Home, dict[str, str]]:
    """The home of an experiment that was killed and then resumed to its end. The second value maps each cell
    that was done before the kill to the time at which it finished.
    """
    home = create_home()
    run_until_killed(home, grid_file, "random-1: running")
    with LedgerView(home.ledger) as view:
        rows = view.rows("SELECT id, at FROM cells WHERE experiment = ? AND status = 'done'", plan.id)
        finished_at = {row["id"]: row["at"] for row in rows}
    run_remaining_cells(home, create_experiment(home, plan), LocalWorkers(home))
    return home, finished_at
