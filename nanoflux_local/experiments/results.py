"""The results of an experiment: an entry for each condition, and the comparison that its kind makes.

Reads only the ledger, also while the experiment runs: unfinished cells are listed.
"""

from typing import Any

from nanoflux_local.experiments.experiment import cells_of, find, summary
from nanoflux_local.experiments.generation import runs_of
from nanoflux_local.experiments.grid import Condition, GridPlan
from nanoflux_local.experiments.kinds.base import ExperimentKind, Reading, find_kind
from nanoflux_local.experiments.paper import paper_figures
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home


def results(home: Home, name: str) -> dict[str, Any]:
    """The results of an experiment in the form of `experiment show --json`.

    Raises:
        NothingMatchedError: the experiment is unknown.
    """
    stored = summary(home, name)
    with LedgerView(home.ledger) as view:
        row = find(view, name)
        plan = GridPlan.model_validate_json(row["plan"])
        kind, reading = (
            find_kind(plan.grid.kind),
            Reading(home, view, plan, cells_of(view, row["id"]), runs_of(home, plan)),
        )
        conditions = [_entry(kind, reading, condition) for condition in plan.conditions]
        comparison = kind.comparison(reading, conditions)
    return {
        **stored,
        "title": plan.grid.title,
        "question": plan.grid.question,
        "kind": plan.grid.kind,
        "base": plan.scale.base,
        "domain": plan.scale.domain,
        "test": list(plan.scale.test),
        "runs": dict(reading.runs),
        "conditions": conditions,
        **comparison,
        "paper": paper_figures(plan.grid.paper, plan.scale.domain),
        "cells_left": [cell for cell, entry in reading.cells.items() if entry["status"] not in ("done", "left out")],
        "left_out": {cell: entry["message"] for cell, entry in reading.cells.items() if entry["status"] == "left out"},
    }


def _entry(kind: ExperimentKind, reading: Reading, condition: Condition) -> dict[str, Any]:
    return {
        "condition": condition.name,
        "title": condition.title or condition.name,
        "source": condition.source,
        "seeds": [cell["seed"] for cell in reading.done_cells(condition.name)],
        **kind.condition_entry(reading, condition),
    }
