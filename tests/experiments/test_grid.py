"""The built-in grids have every scale and the controls that the paper lacks; errors in a user's grid are reported."""

from pathlib import Path

import pytest

from nanoflux_local.errors import ConfigError
from nanoflux_local.experiments.grid import GENERATE, Condition, GridPlan, list_grids, load_grid
from nanoflux_local.experiments.paper import load_paper_results
from nanoflux_local.experiments.planning import make_plan
from nanoflux_local.train.settings import parse_train_settings

PAPER_GRIDS = ["complexity", "curves", "discriminativity", "judge", "quality", "size", "table1"]


def test_built_in_grids_have_plans_at_every_scale() -> None:
    assert set(PAPER_GRIDS) <= set(list_grids())
    for name in list_grids():
        _, grid = load_grid(name)
        assert {"tiny", "paper"} <= grid.scales.keys()
        for scale in grid.scales:
            plan = make_plan(name, scale)
            assert len({cell.id for cell in plan.cells}) == len(plan.cells), "two cells have the same id"
            assert len(plan.compared_pairs) > 0 or grid.kind != "train", "the grid compares no conditions"
            assert GridPlan.model_validate_json(plan.model_dump_json()) == plan, "the stored plan differs from the plan"
            parse_train_settings(plan.scale.train)


@pytest.mark.parametrize("scale", ["tiny", "paper"])
def test_frontier_model_is_evaluated_only_if_the_scale_names_one(scale: str) -> None:
    plan = make_plan("table1", scale)
    assert ("endpoint" in [condition.source for condition in plan.conditions]) == (plan.scale.frontier is not None)


def list_random_controls(plan: GridPlan, name: str) -> list[Condition]:
    """The conditions with which the condition `name` is compared and that train on as many rows, drawn at random."""
    size = plan.condition(name).size
    sizes = ("run",) if size == "all" else (size,)  # a condition that trains on the whole run has the size "all"
    compared_conditions = [plan.condition(a) for a, b in plan.compared_pairs if b == name]
    return [condition for condition in compared_conditions if condition.size in sizes and not condition.level]


@pytest.mark.parametrize("scale", ["tiny", "paper"])
@pytest.mark.parametrize(("name", "prefix"), [("table1", "run"), ("size", "run-"), ("quality", "level-")])
def test_examples_are_compared_with_equally_many_random_rows(name: str, prefix: str, scale: str) -> None:
    plan = make_plan(name, scale)
    tested_names = [condition.name for condition in plan.conditions if condition.name.startswith(prefix)]
    assert tested_names
    for tested_name in tested_names:
        assert len(list_random_controls(plan, tested_name)) == 1, f"{tested_name} has no random control of its size"


@pytest.mark.parametrize("name", ["size", "complexity", "quality"])
def test_grid_that_chooses_a_condition_has_dev_items(name: str) -> None:
    _, grid = load_grid(name)
    assert all(scale.dev for scale in grid.scales.values())


def test_each_number_of_seed_questions_has_a_separate_run() -> None:
    plan = make_plan("complexity", "paper")
    seed_counts = tuple(cell.seed_count for cell in plan.cells if cell.condition == GENERATE)
    assert seed_counts == plan.scale.seed_counts


def test_plan_with_an_existing_run_has_no_generation_cell() -> None:
    plan = make_plan("table1", "tiny", run="r")
    assert not any(cell.condition == GENERATE for cell in plan.cells)


def test_experiment_id_is_determined_by_its_plan() -> None:
    stored_plan = GridPlan.model_validate_json(make_plan("table1", "tiny").model_dump_json())
    assert stored_plan.id == make_plan("table1", "tiny").id, "the plan has another id after it was stored"
    plans = [make_plan("table1", scale, run) for scale in ("tiny", "paper") for run in ("", "r")]
    assert len({plan.id for plan in plans}) == 4, "plans with different scales or runs have the same id"


def test_paper_results_include_all_benchmarks_if_the_paper_lacks_the_domain() -> None:
    results = load_paper_results("table1", "gsmhard")
    assert results is not None and results["where"] == "Table 1"
    accuracy_by_condition = {row["condition"]: row["accuracy"] for row in results["rows"]}
    assert accuracy_by_condition["run"] == 63.3
    starter_results = load_paper_results("table1", "starter")
    assert starter_results is not None and len({row["benchmark"] for row in starter_results["rows"]}) == 3
    assert load_paper_results("nothing", "gsmhard") is None


@pytest.mark.parametrize(
    ("line", "invalid_line", "message"),
    [
        ('size = "run"', 'size = "some"', "conditions"),
        ("train_seeds = [0, 1]", "train_seeds = []", "train_seeds"),
        ("limit = 3", "limit = 3\nruns = 5", "every run gives the same replies"),
        ('name = "run-{value}"', 'name = "run"', "two conditions have the same name"),
        ('base = "tiny"', 'basis = "tiny"', "basis"),
    ],
)
def test_error_on_an_invalid_grid_names_the_problem(
    grid_file: Path, tmp_path: Path, line: str, invalid_line: str, message: str
) -> None:
    path = tmp_path / "invalid.toml"
    text = grid_file.read_text()
    assert line in text
    path.write_text(text.replace(line, invalid_line))
    with pytest.raises(ConfigError, match=message):
        make_plan(str(path), "tiny")


def test_error_on_an_unknown_grid_lists_the_available_grids(grid_file: Path) -> None:
    with pytest.raises(ConfigError, match="no grid 'table2'") as error_info:
        make_plan("table2", "tiny")
    assert "table1" in error_info.value.fix
    with pytest.raises(ConfigError, match="no scale 'huge'"):
        make_plan(str(grid_file), "huge")
