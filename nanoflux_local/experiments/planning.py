"""Plans a grid at one scale: expands its conditions and lists their cells."""

from nanoflux_local.errors import ConfigError
from nanoflux_local.experiments.grid import (
    ANSWERS,
    DEFAULT_RUN,
    GENERATE,
    Cell,
    Condition,
    Grid,
    GridPlan,
    Scale,
    load_grid,
)
from nanoflux_local.experiments.kinds.base import find_experiment_kind


def make_plan(name: str, scale_name: str, run: str = "") -> GridPlan:
    """The plan of a grid at one of its scales.

    Raises:
        ConfigError: the grid, scale or kind is unknown, or two conditions have the same name.
    """
    grid_name, grid = load_grid(name)
    if scale_name not in grid.scales:
        raise ConfigError(f"{grid_name} has no scale {scale_name!r}", f"choose one of: {', '.join(grid.scales)}")
    scale = grid.scales[scale_name]
    all_conditions = [condition for declared in grid.conditions for condition in _expand_condition(declared, scale)]
    # a condition that evaluates the frontier model is left out if the scale names none
    conditions = [condition for condition in all_conditions if condition.source != "endpoint" or scale.frontier]
    names = [condition.name for condition in conditions]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{grid_name}: two conditions have the same name",
            "put {value} into the name of each condition that sets `each`",
        )
    cells = _list_generation_cells(conditions, run)
    if any(condition.needs_answers for condition in conditions):
        cells.append(Cell(id=ANSWERS, condition=ANSWERS))
    for condition in conditions:
        cells += _list_cells(condition, grid, scale)
    return GridPlan(
        name=grid_name,
        scale_name=scale_name,
        grid=grid,
        scale=scale,
        conditions=tuple(conditions),
        cells=tuple(cells),
        run=run,
    )


def _expand_condition(condition: Condition, scale: Scale) -> list[Condition]:
    """One condition for each value of the list that `each` names; the condition itself if `each` is empty."""
    if not condition.each:
        return [condition]
    field_by_list = {"sizes": "size", "seed_counts": "seed_count", "levels": "level"}
    field = field_by_list[condition.each]
    return [
        condition.model_copy(
            update={
                "name": condition.name.replace("{value}", str(value)),
                "title": condition.title.replace("{value}", str(value)),
                field: value,
            }
        )
        for value in getattr(scale, condition.each)
    ]


def _list_generation_cells(conditions: list[Condition], run: str) -> list[Cell]:
    """The cells that generate the conditions' runs: one for each rule set and number of seed questions. If `run` is not
    empty, it is the default run, which no cell then generates.
    """
    run_key_by_settings = {
        (condition.rules, condition.seed_count): condition.run_key for condition in conditions if condition.needs_run
    }
    cells: list[Cell] = []
    for (rules, seed_count), key in sorted(run_key_by_settings.items()):
        if key != DEFAULT_RUN:
            cells.append(Cell(id=f"{GENERATE}-{key}", condition=GENERATE, seed=seed_count, rules=rules))
        elif not run:
            cells.append(Cell(id=GENERATE, condition=GENERATE, seed=seed_count, rules=rules))
    return cells


def _list_cells(condition: Condition, grid: Grid, scale: Scale) -> list[Cell]:
    """The cells of a condition: one for each training seed."""
    seeds = find_experiment_kind(grid.kind).list_seeds(condition, scale)
    return [Cell(id=f"{condition.name}-{seed}", condition=condition.name, seed=seed) for seed in seeds]
