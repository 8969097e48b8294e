"""A laboratory for all experiments of the suite: a base that trains in a second and scripted duels."""

import shutil
from pathlib import Path

import pytest

from nanoflux_local.paths import Home
from nanoflux_models.weights import import_path

GRID = """
title = "A small grid"
question = "Do the run's examples teach more than random ones?"
paper = "table1"
select = true
compare = [["base", "run"], ["random", "run"], ["run-2", "run-3"]]

[[conditions]]
name = "base"
title = "the model as it is"

[[conditions]]
name = "random"
title = "random examples of equal number"
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


@pytest.fixture(scope="session")
def new_lab(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory):
    """`new_lab()` gives one more home with the small base installed."""
    first = tmp_path_factory.mktemp("lab") / "home"
    import_path(tiny_base, "tiny", Home(first).prepare().root)

    def make() -> Home:
        root = tmp_path_factory.mktemp("lab") / "home"
        shutil.copytree(first, root)
        return Home(root)

    return make


@pytest.fixture(scope="session")
def grid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grids") / "small.toml"
    path.write_text(GRID, encoding="utf-8")
    return path
