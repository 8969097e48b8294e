"""The built-in grids are complete and have the controls that the paper lacks; errors in a user's grid are reported."""

from pathlib import Path

import pytest

from nanoflux_local.errors import ConfigError
from nanoflux_local.experiments.grid import GENERATE, GridPlan, list_grids, load_grid
from nanoflux_local.experiments.paper import load_paper_results
from nanoflux_local.experiments.planning import make_plan
from nanoflux_local.train.settings import parse_train_settings

PAPER_GRIDS = ["complexity", "curves", "discriminativity", "judge", "quality", "size", "table1"]


def test_paper_grids_have_every_scale() -> None:
    assert set(PAPER_GRIDS) <= set(list_grids())
    for name in list_grids():
        _, grid = load_grid(name)
        assert {"tiny", "paper"} <= grid.scales.keys()
        for scale in grid.scales:
            plan = make_plan(name, scale)
            assert len({cell.id for cell in plan.cells}) == len(plan.cells)
            assert len(plan.compared_pairs) > 0 or grid.kind != "train", "the grid compares no conditions"
            assert GridPlan.model_validate_json(plan.model_dump_json()) == plan, "the stored plan differs from the plan"
            parse_train_settings(plan.scale.train)


def test_table_1_has_a_condition_with_as_many_random_examples() -> None:
    plan = make_plan("table1", "paper")
    random_condition = plan.condition("random")
    assert (random_condition.source, random_condition.size) == ("benchmark", "run")
    assert ("random", "run") in plan.compared_pairs
    assert {condition.name for condition in plan.conditions} == {"base", "full", "random", "run", "frontier"}
    assert "frontier" not in [condition.name for condition in make_plan("table1", "tiny").conditions]


def test_quality_levels_and_their_control_have_equal_sizes() -> None:
    plan = make_plan("quality", "paper")
    sizes = {condition.name: condition.size for condition in plan.conditions if condition.source == "run"}
    assert sizes == {"any": "least", **{f"level-{level}": "least" for level in range(1, 6)}}
    assert ("any", "level-4") in plan.compared_pairs


def test_sizes_have_controls_and_are_chosen_on_dev_items() -> None:
    plan = make_plan("size", "paper")
    assert [pair for pair in plan.compared_pairs if pair[0].startswith("random")] == [
        (f"random-{size}", f"run-{size}") for size in (50, 100, 150, 200)
    ]
    for name in ("size", "complexity", "quality"):
        for scale in load_grid(name)[1].scales.values():
            assert scale.dev, "a grid that chooses a condition has no dev items"


def test_seed_counts_have_separate_runs() -> None:
    plan = make_plan("complexity", "paper")
    assert [cell.seed for cell in plan.cells if cell.condition == GENERATE] == [5, 6, 7, 8, 9, 10]
    assert [cell.id for cell in make_plan("table1", "tiny", run="r").cells if cell.condition == GENERATE] == []


def test_experiment_id_follows_from_its_plan() -> None:
    assert make_plan("table1", "tiny").id == make_plan("table1", "tiny").id
    assert len({make_plan("table1", scale, run).id for scale in ("tiny", "paper") for run in ("", "r")}) == 4


def test_paper_results_are_those_of_the_domain_or_of_all_benchmarks() -> None:
    results = load_paper_results("table1", "gsmhard")
    assert results is not None and results["where"] == "Table 1"
    assert {row["condition"]: row["accuracy"] for row in results["rows"]}["run"] == 63.3
    starter_results = load_paper_results("table1", "starter")
    assert starter_results is not None and len({row["benchmark"] for row in starter_results["rows"]}) == 3
    assert load_paper_results("nothing", "gsmhard") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('size = "run"', 'size = "some"'), "conditions"),
        (("train_seeds = [0, 1]", "train_seeds = []"), "train_seeds"),
        (("limit = 3", "limit = 3\nruns = 5"), "every run gives the same replies"),
        (('name = "run-{value}"', 'name = "run"'), "two conditions have the same name"),
        (('base = "tiny"', 'basis = "tiny"'), "basis"),
    ],
)
def test_wrong_grid_error_names_the_key(grid_file: Path, tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "wrong.toml"
    text = grid_file.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=message):
        make_plan(str(path), "tiny")


def test_unknown_names_are_refused_with_the_available_ones(grid_file: Path) -> None:
    with pytest.raises(ConfigError, match="no grid 'table2'") as error:
        make_plan("table2", "tiny")
    assert "table1" in error.value.fix
    with pytest.raises(ConfigError, match="no scale 'huge'"):
        make_plan(str(grid_file), "huge")
