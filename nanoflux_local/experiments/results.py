"""What an experiment found: each condition's accuracy with its interval, the paired tests, what was chosen on dev.

Reads the ledger alone, at any moment: cells that are not done yet are told as such. Test items choose nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanoflux_local.errors import UsageError
from nanoflux_local.evaluate.comparison import Marked, marked, pair, with_holm
from nanoflux_local.evaluate.statistics import bootstrap_interval, folds, t_interval
from nanoflux_local.experiments.cells import runs_of
from nanoflux_local.experiments.compute import generation_cost, times_less
from nanoflux_local.experiments.experiment import cells_of, find, summary
from nanoflux_local.experiments.grid import Condition, Plan
from nanoflux_local.experiments.paper import paper_figures
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

Cells = Sequence[dict[str, Any]]
TRAINED = ("run", "benchmark")


def results(home: Home, name: str) -> dict[str, Any]:
    """What `experiment show --json` prints.

    Raises:
        NothingMatchedError: there is no such experiment.
    """
    stored = summary(home, name)
    with LedgerView(home.ledger) as view:
        row = find(view, name)
        plan = Plan.model_validate_json(row["plan"])
        cells = cells_of(view, row["id"])
        runs = runs_of(home, plan)
        conditions = [_condition(home, view, plan, condition, cells, runs) for condition in plan.conditions]
        compared = _compare_pairs(view, plan, cells)
    return {
        **stored,
        "title": plan.grid.title,
        "question": plan.grid.question,
        "kind": plan.grid.kind,
        "base": plan.scale.base,
        "domain": plan.scale.domain,
        "test": list(plan.scale.test),
        "runs": {str(count): run for count, run in runs.items()},
        "conditions": conditions,
        "pairs": compared,
        "chosen": _chosen(plan, conditions),
        "less_compute": _less_compute(conditions),
        "paper": paper_figures(plan.grid.paper, plan.scale.domain),
        "cells_left": [cell for cell, entry in cells.items() if entry["status"] not in ("done", "left out")],
        "left_out": {cell: entry["message"] for cell, entry in cells.items() if entry["status"] == "left out"},
    }


def _condition(
    home: Home, view: LedgerView, plan: Plan, condition: Condition, cells: dict[str, Any], runs: dict[int, str]
) -> dict[str, Any]:
    done = [cell for cell in cells.values() if cell["condition"] == condition.name and cell["status"] == "done"]
    entry: dict[str, Any] = {
        "condition": condition.name,
        "title": condition.title or condition.name,
        "source": condition.source,
        "seeds": [cell["seed"] for cell in done],
    }
    if plan.grid.kind != "train":
        keys = ("rates", "solutions", "unjudged", "pairs", "centres", "each")
        return entry | {key: done[0][key] for key in keys if done and key in done[0]}
    entry["test"] = {data: _accuracy(view, done, "test", data) for data in plan.scale.test} if done else {}
    entry["dev"] = {data: _accuracy(view, done, "dev", data) for data in plan.scale.dev} if done else {}
    if done and condition.source in TRAINED:
        entry |= _training(done)
        if condition.source == "run":
            entry["generation"] = generation_cost(home, view, runs[condition.seed_count])
    return entry


def _training(done: Cells) -> dict[str, Any]:
    """Means over the seeds of what the trainings took; the rows and adapters of each."""
    mean = {key: float(np.mean([cell[key] for cell in done])) for key in ("rows", "tokens", "seconds", "truncated")}
    flops = {way: float(np.mean([cell["flops"][way] for cell in done])) for way in ("6nd", "measured")}
    return {
        **mean,
        "flops": flops,
        "trainings": [cell["training"] for cell in done],
        "adapters": [cell["adapter"] for cell in done],
        "val_losses": [cell["val_losses"] for cell in done],
    }


def _side(view: LedgerView, name: str, cells: Cells, split: str, data: str) -> Marked:
    """A condition's side of a comparison: each item with its marks under every seed and repeat."""
    sides = [marked(view, cell[split][data], partial=True) for cell in cells]
    items = set.intersection(*(set(side.marks) for side in sides))
    marks = {item: [mark for side in sides for mark in side.marks[item]] for item in sorted(items)}
    by_seed = tuple(float(np.mean([np.mean(side.marks[item]) for item in items])) for side in sides)
    return Marked(name, marks, by_seed, sides[0].items)


def _accuracy(view: LedgerView, cells: Cells, split: str, data: str) -> dict[str, Any]:
    """Mean over items, its bootstrap interval, the standard deviation over training seeds, and five folds of items."""
    side = _side(view, "", cells, split, data)
    rates = {item: float(np.mean(marks)) for item, marks in side.marks.items()}
    parts = [part for part in folds(list(rates)) if part]
    means = [float(np.mean([rates[item] for item in part])) for part in parts]
    return {
        "n": len(rates),
        "mean": float(np.mean(list(rates.values()))),
        "sd": float(np.std(side.by_run, ddof=1)) if len(side.by_run) > 1 else None,
        "ci95": list(bootstrap_interval(list(rates.values()))),
        "by_seed": list(side.by_run),
        "folds": {"means": means, "sd": float(np.std(means, ddof=1)), "ci95": list(t_interval(means))}
        if len(means) > 1
        else None,
        "evaluations": [cell[split][data] for cell in cells],
    }


def _compare_pairs(view: LedgerView, plan: Plan, cells: dict[str, Any]) -> list[dict[str, Any]]:
    """The declared pairs whose cells are all done, on each test benchmark; Holm's correction over all of them."""
    if plan.grid.kind != "train":
        return []
    pairs = []
    for data in plan.scale.test:
        for one, other in plan.compared:
            sides = [_finished_cells(cells, name) for name in (one, other)]
            if all(sides):
                a, b = (_side(view, name, side, "test", data) for name, side in zip((one, other), sides, strict=True))
                pairs.append({"data": data, **_pair(a, b)})
    return with_holm([entry for entry in pairs if "n" in entry])


def _pair(a: Marked, b: Marked) -> dict[str, Any]:
    try:
        return pair(a, b)
    except UsageError:  # one item: nothing to test
        return {}


def _finished_cells(cells: dict[str, Any], condition: str) -> list[dict[str, Any]]:
    """The cells of a condition, where all of them are done."""
    own = [cell for cell in cells.values() if cell["condition"] == condition]
    return own if own and all(cell["status"] == "done" for cell in own) else []


def _chosen(plan: Plan, conditions: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The condition of an `each` that is best on dev, with its accuracy on test: dev chooses, test reports."""
    among = {
        condition.name
        for condition in plan.conditions
        if condition.source == "run" and (condition.level or condition.seed_count or isinstance(condition.size, int))
    }
    entries = [entry for entry in conditions if entry["condition"] in among and entry.get("dev")]
    if not plan.grid.select or not entries:
        return None

    def on_dev(entry: dict[str, Any]) -> float:
        return float(np.mean([accuracy["mean"] for accuracy in entry["dev"].values()]))

    best = max(entries, key=on_dev)
    test = {data: accuracy["mean"] for data, accuracy in best["test"].items()}
    return {"condition": best["condition"], "title": best["title"], "dev": on_dev(best), "test": test}


def _less_compute(conditions: list[dict[str, Any]]) -> dict[str, float] | None:
    by_name = {entry["condition"]: entry for entry in conditions}
    return times_less(by_name.get("full"), by_name.get("run"))
