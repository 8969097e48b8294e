"""The results of an experiment: an entry for each condition, and the comparison that its kind makes.

The results are read from the ledger alone, even while the experiment runs; unfinished cells are listed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanoflux_local.experiments.experiment import ExperimentSummary, find_experiment, load_cells, summarize_experiment
from nanoflux_local.experiments.generation import find_runs
from nanoflux_local.experiments.grid import Condition, GridPlan
from nanoflux_local.experiments.kinds.base import (
    ConditionComparison,
    ConditionEntry,
    ExperimentKind,
    RecordedExperiment,
    StoredCell,
    find_experiment_kind,
)
from nanoflux_local.experiments.paper import load_paper_results
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home


@dataclass(frozen=True, slots=True)
class ExperimentResults:
    """An experiment's conditions and their comparison. `summary` is its entry in the list of experiments, `cells` are
    its cells by id, `runs` are its runs by `Condition.run_key`, and `paper` has the paper's results for the same table,
    None if there are none.
    """

    summary: ExperimentSummary
    plan: GridPlan
    runs: Mapping[str, str]
    conditions: tuple[ConditionEntry, ...]
    comparison: ConditionComparison
    cells: Mapping[str, StoredCell]
    paper: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """The results as `experiment show --json` prints them."""
        plan = self.plan
        unfinished = [cell_id for cell_id, cell in self.cells.items() if cell.status not in ("done", "left out")]
        left_out = {cell_id: cell.message for cell_id, cell in self.cells.items() if cell.status == "left out"}
        return {
            **self.summary.to_json(),
            "title": plan.grid.title,
            "question": plan.grid.question,
            "kind": plan.grid.kind,
            "base": plan.scale.base,
            "domain": plan.scale.domain,
            "test": list(plan.scale.test),
            "runs": dict(self.runs),
            "conditions": [entry.to_json() for entry in self.conditions],
            **self.comparison.to_json(),
            "paper": self.paper,
            "cells_left": unfinished,
            "left_out": left_out,
        }


def load_results(home: Home, name: str) -> ExperimentResults:
    """The results of an experiment.

    Raises:
        NothingMatchedError: the experiment is unknown.
    """
    with LedgerView(home.ledger) as view:
        stored_experiment = find_experiment(view, name)
        summary = summarize_experiment(home, view, stored_experiment)
        plan = stored_experiment.plan
        kind = find_experiment_kind(plan.grid.kind)
        cells = load_cells(view, stored_experiment.id)
        runs = find_runs(home, plan)
        experiment = RecordedExperiment(home, view, plan, cells, runs)
        entries = tuple(_build_entry(kind, experiment, condition) for condition in plan.conditions)
        comparison = kind.compare_conditions(experiment, entries)
    paper = load_paper_results(plan.grid.paper, plan.scale.domain)
    return ExperimentResults(summary, plan, runs, entries, comparison, cells, paper)


def _build_entry(kind: ExperimentKind, experiment: RecordedExperiment, condition: Condition) -> ConditionEntry:
    """The entry of a condition, with the training seeds of its finished cells and the measurements of the kind."""
    seeds = tuple(cell.seed for cell in experiment.done_cells(condition.name))
    title = condition.title or condition.name
    measurements = kind.measure_condition(experiment, condition)
    return ConditionEntry(condition.name, title, condition.source, seeds, measurements)
