"""Evaluates models on benchmark items for the cells of experiments."""

from collections.abc import Callable, Sequence

from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.evaluate.evaluation import evaluate, make_plan
from nanoflux_local.experiments.grid import GridPlan
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.paths import Home
from nanoflux_local.transcript import Seed


async def evaluate_items(
    home: Home,
    plan: GridPlan,
    endpoint: Endpoint,
    data: str,
    split: str,
    items: Sequence[Seed],
    repeats: int,
    temperature: float,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> str:
    """Evaluate an endpoint on items of the benchmark `data` and return the evaluation's id. If the same evaluation is
    already done, it is not repeated.

    Raises:
        NanofluxError: replies are missing; starting the experiment again requests them.
    """
    evaluation_plan = make_plan(
        endpoint.identity,
        data,
        split,
        items,
        repeats,
        temperature,
        root=home.root,
        domain_name=plan.scale.domain,
        reasoning_tokens=endpoint.context.reasoning,
    )
    with Ledger(home.ledger) as ledger:
        if ledger.rows("SELECT status FROM evaluations WHERE id = ?", evaluation_plan.id) != [("done",)]:
            summary = await evaluate(ledger, endpoint, evaluation_plan, on_progress)
            summary.require_all_replies(allow_refused=True)
    return evaluation_plan.id
