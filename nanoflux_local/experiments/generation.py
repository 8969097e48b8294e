"""Generates and finds the runs that an experiment uses.

A run's name contains a hash of its settings, so that experiments with the same settings share the run.
"""

import asyncio

from nanoflux_local.config import merge_tables
from nanoflux_local.experiments.grid import DEFAULT_RUN, GENERATE, Cell, GridPlan
from nanoflux_local.experiments.kinds.base import OnStep
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import digest
from nanoflux_local.run import configs, runs


def find_runs(home: Home, plan: GridPlan) -> dict[str, str]:
    """The runs that the plan uses, by `Condition.run_key`."""
    run_by_key = {DEFAULT_RUN: plan.run} if plan.run else {}
    with LedgerView(home.ledger) as view:
        for cell in plan.cells:
            if cell.condition == GENERATE:
                row = view.row("SELECT id FROM runs WHERE name = ? ORDER BY rowid DESC", _format_run_name(plan, cell))
                if row:
                    run_by_key[cell.run_key] = row["id"]
        return {key: str(view.find_run(run)["id"]) for key, run in run_by_key.items()}


def _format_run_name(plan: GridPlan, cell: Cell) -> str:
    """The name of a cell's run; it contains a hash of the run's settings."""
    scale = plan.scale
    settings = [scale.domain, scale.profile, scale.examples, scale.run, cell.seed_count]
    if cell.rules:
        settings.append(cell.rules)
    return f"experiment-{digest(settings)[:10]}"


def generate_run(home: Home, plan: GridPlan, cell: Cell, on_step: OnStep) -> str:
    """Start or resume the run of a cell and return its id. A finished run is used even if it missed its target."""
    name = _format_run_name(plan, cell)
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT id, status FROM runs WHERE name = ? ORDER BY rowid DESC", name)
    if row is not None and row["status"] == "done":
        return str(row["id"])
    run = str(row["id"]) if row else ""
    if not run:
        cell_settings: dict[str, object] = {}
        if cell.seed_count:
            cell_settings["seeds"] = {"min": cell.seed_count, "max": cell.seed_count}
        if cell.rules:
            cell_settings["rules"] = cell.rules
        # An experiment runs unattended, and a run that misses its target is still useful, so a saturated run does not
        # pause.
        defaults = {"target": plan.scale.examples, "pause_when_saturated": 0}
        settings = merge_tables(merge_tables(defaults, plan.scale.run), cell_settings)
        config = configs.resolve(plan.scale.domain, plan.scale.profile, settings, home)
        run = asyncio.run(runs.start(home, config, name))
    asyncio.run(runs.execute(home, run, lambda progress: on_step("examples", progress.kept, progress.target)))
    return run
