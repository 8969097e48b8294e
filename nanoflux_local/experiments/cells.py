"""Runs one cell of an experiment. A cell generates a run, lets the base model answer train items, or runs a condition
as the experiment's kind defines it.

Every step has an id derived from its inputs and is stored in the ledger, so a killed cell resumes from its committed
turns, checkpoints and replies.
"""

from nanoflux_local.experiments.answers import ask_train_items
from nanoflux_local.experiments.generation import generate_run
from nanoflux_local.experiments.grid import ANSWERS, GENERATE, Cell, GridPlan
from nanoflux_local.experiments.kinds.base import CellResult, OnStep, find_experiment_kind
from nanoflux_local.paths import Home


def run_cell(home: Home, plan: GridPlan, cell: Cell, on_step: OnStep = lambda *_: None) -> CellResult:
    """Run one cell and return its result.

    Raises:
        NothingMatchedError, RefusedError: this home lacks the data for the condition.
        NanofluxError: the cell failed; the next start retries it.
    """
    if cell.condition == GENERATE:
        return {"run": generate_run(home, plan, cell, on_step)}
    if cell.condition == ANSWERS:
        return dict(ask_train_items(home, plan, on_step))
    return find_experiment_kind(plan.grid.kind).run_cell(home, plan, plan.condition(cell.condition), cell.seed, on_step)
