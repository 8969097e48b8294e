"""What a cell does: makes a run, trains and evaluates a condition, or measures a judge or a set of solutions.

Every step has an id that follows from what decides it and is kept in the ledger, so that a cell that was killed and is
done again goes on where it was: turns, checkpoints and replies stay.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from nanoflux_local import binding, runs, trainings
from nanoflux_local.config import merged
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.evaluate.evaluation import evaluate, make_plan, require_whole
from nanoflux_local.experiments.grid import GENERATE, Cell, Condition, Plan
from nanoflux_local.experiments.rows import asked_items, rows_of
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import digest
from nanoflux_local.train.settings import train_settings

OnStep = Callable[[str, int, int], None]
"""Told what is being done, and how much of it: (what, done, total)."""


def do_cell(home: Home, plan: Plan, cell: Cell, on_step: OnStep = lambda *_: None) -> dict[str, Any]:
    """Do one cell and return what came of it, as it is kept in the ledger.

    Raises:
        NothingMatchedError, RefusedError: the condition cannot be met with what is here.
        NanofluxError: what stopped it; done again, it goes on.
    """
    if cell.condition == GENERATE:
        return {"run": _generate_run(home, plan, cell.seed, on_step)}
    condition = plan.condition(cell.condition)
    if plan.grid.kind == "judge":
        from nanoflux_local.experiments.judging import judge_rates

        return judge_rates(home, condition, runs_of(home, plan)[0])
    if plan.grid.kind == "discriminativity":
        from nanoflux_local.experiments.discriminativity import measure_discriminativity

        return measure_discriminativity(home, plan, condition, runs_of(home, plan)[0])
    return _train_and_evaluate(home, plan, condition, cell.seed, on_step)


def runs_of(home: Home, plan: Plan) -> dict[int, str]:
    """The runs that the plan rests on, by their fixed number of seed questions (0: the domain's own range)."""
    run_by_seed_count = {0: plan.run} if plan.run else {}
    with LedgerView(home.ledger) as view:
        for cell in plan.cells:
            if cell.condition == GENERATE:
                row = view.row("SELECT id FROM runs WHERE name = ? ORDER BY rowid DESC", run_name(plan, cell.seed))
                run_by_seed_count |= {cell.seed: row["id"]} if row else {}
        return {count: str(view.find_run(run)["id"]) for count, run in run_by_seed_count.items()}


def run_name(plan: Plan, seed_count: int) -> str:
    """A run's name follows from what decides it, so that experiments of one scale share a run."""
    scale = plan.scale
    return f"experiment-{digest([scale.domain, scale.profile, scale.examples, scale.run, seed_count])[:10]}"


def _generate_run(home: Home, plan: Plan, seed_count: int, on_step: OnStep) -> str:
    """Make the run, or go on with it. A run that ended short of its target is what there is."""
    name = run_name(plan, seed_count)
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT id, status FROM runs WHERE name = ? ORDER BY rowid DESC", name)
    if row is not None and row["status"] == "done":
        return str(row["id"])
    run = str(row["id"]) if row else ""
    if not run:
        fixed = {"seeds": {"min": seed_count, "max": seed_count}} if seed_count else {}
        settings = merged(merged({"target": plan.scale.examples}, plan.scale.run), fixed)
        config = binding.resolve(plan.scale.domain, plan.scale.profile, settings, home)
        run = asyncio.run(runs.start(home, config, name))
    asyncio.run(runs.carry_on(home, run, lambda progress: on_step("examples", progress.kept, progress.target)))
    return run


def _train_and_evaluate(home: Home, plan: Plan, condition: Condition, seed: int, on_step: OnStep) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if condition.source in ("run", "benchmark"):
        result = train_condition(home, plan, condition, seed, on_step)
    return {**result, **asyncio.run(_evaluate_all(home, plan, condition, result.get("adapter", ""), on_step))}


def train_condition(home: Home, plan: Plan, condition: Condition, seed: int, on_step: OnStep) -> dict[str, Any]:
    """Train the condition's rows under a seed; a training that is done is answered from the ledger."""
    rows = rows_of(home, plan, condition, seed, runs_of(home, plan))
    settings = train_settings({**plan.scale.train, "seed": seed})
    training = trainings.create(home, plan.scale.base, settings, rows)
    result = trainings.carry_on(home, training, lambda event: _report_step(event, on_step))
    if "adapter" not in result or "flops" not in result:
        raise KeyboardInterrupt  # someone wished the training to end, and with it this cell
    kept = ("adapter", "tokens", "steps", "truncated", "seconds", "flops", "train_loss", "val_loss", "val_losses")
    return {
        "training": training,
        "rows": len(rows.rows),
        "source": rows.source,
        **{key: result.get(key) for key in kept},
    }


def _report_step(event: Any, on_step: OnStep) -> None:
    if hasattr(event, "steps"):
        on_step("steps", event.step, event.steps)


async def _evaluate_all(
    home: Home, plan: Plan, condition: Condition, adapter: str, on_step: OnStep
) -> dict[str, dict[str, str]]:
    """The evaluations' ids by split and benchmark; dev items choose, test items are only ever reported."""
    asked = {"test": plan.scale.test, "dev": plan.scale.dev}
    endpoint = _endpoint(home, plan, condition, adapter)
    try:
        return {
            split: {data: await _evaluate_split(home, plan, endpoint, data, split, on_step) for data in benchmarks}
            for split, benchmarks in asked.items()
        }
    finally:
        await endpoint.close()


async def _evaluate_split(home: Home, plan: Plan, endpoint: Endpoint, data: str, split: str, on_step: OnStep) -> str:
    """The id of the evaluation on one split, done where it is not done yet."""
    scale, items = plan.scale, asked_items(home, plan, data, split)
    asked = make_plan(
        endpoint.identity,
        data,
        split,
        items,
        scale.runs,
        scale.temperature,
        root=home.root,
        domain_name=scale.domain,
        reasoning_tokens=endpoint.context.reasoning,
    )
    with Ledger(home.ledger) as ledger:
        if ledger.rows("SELECT status FROM evaluations WHERE id = ?", asked.id) != [("done",)]:
            result = await evaluate(ledger, endpoint, asked, lambda done, total: on_step(f"{split} items", done, total))
            require_whole(result, allow_refused=True)
    return asked.id


def _endpoint(home: Home, plan: Plan, condition: Condition, adapter: str) -> Endpoint:
    """Who answers: the base with the cell's adapter, or the reference model."""
    scale = plan.scale
    if condition.source == "endpoint":
        assert scale.frontier is not None
        return binding.profile_endpoint(scale.frontier.profile, scale.frontier.endpoint, home)[0]
    return binding.model_endpoint(scale.base, adapter, home, scale.via, scale.args)


def result_of(row: Any) -> dict[str, Any]:
    """A cell's row as it is read from the ledger."""
    return {**json.loads(row["result"]), "status": row["status"], "message": row["message"]}
