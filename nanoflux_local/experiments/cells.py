"""What a cell does: it generates a run, or does what the experiment's kind says.

Every step has an id that follows from what decides it and is stored in the ledger, so that a cell that was killed
resumes where it stopped: turns, checkpoints and replies stay.
"""

import json
from typing import Any

from nanoflux_local.experiments.generation import generate_run
from nanoflux_local.experiments.grid import GENERATE, Cell, Plan
from nanoflux_local.experiments.kinds.base import CellResult, OnStep, find_kind
from nanoflux_local.paths import Home


def do_cell(home: Home, plan: Plan, cell: Cell, on_step: OnStep = lambda *_: None) -> CellResult:
    """Do one cell and return its result.

    Raises:
        NothingMatchedError, RefusedError: the condition cannot be met with the data that is here.
        NanofluxError: the cell failed; the next start does it again.
    """
    if cell.condition == GENERATE:
        return {"run": generate_run(home, plan, cell.seed, on_step)}
    return find_kind(plan.grid.kind).run_cell(home, plan, plan.condition(cell.condition), cell.seed, on_step)


def result_of(row: Any) -> CellResult:
    """A cell's row as it is read from the ledger."""
    return {**json.loads(row["result"]), "status": row["status"], "message": row["message"]}
