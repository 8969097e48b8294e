"""The experiment on the judge: how often it errs on solutions of known worth, by its own word and with the code check.

The trial that each run holds is the measurement (`trial`); nothing is judged here.
"""

from typing import Any

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.experiments.grid import Condition
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.trial import trial_result


def judge_rates(home: Home, condition: Condition, run: str) -> dict[str, Any]:
    """The judge's sensitivity and specificity in a run's trial, each with its Wilson interval.

    Raises:
        NothingMatchedError: the run held no trial, or its judge writes no programs.
    """
    with LedgerView(home.ledger) as view:
        result = trial_result(view, run)
    fix = "generate with judge.trial and judge.code_check, and a model that judges"
    if result is None:
        raise NothingMatchedError(f"run {run} held no trial of its judge", fix)
    rates = result["with_check" if condition.code_check else "without_check"]
    if rates is None:
        raise NothingMatchedError(f"the judge of run {run} writes no programs, so that there is one word alone", fix)
    return {"run": run, "solutions": result["solutions"], "unjudged": result["unjudged"], "rates": rates}
