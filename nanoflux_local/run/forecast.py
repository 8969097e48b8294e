"""How long a run will take yet, and what it will cost, with an interval. Reads the ledger and decides nothing.

With k of the newest n turns kept, the chance p that a turn is kept is Beta(k + ½, n − k + ½) (Jeffreys' prior), and
the turns that r more examples need are r + NegativeBinomial(r, p), cut at the turn limit. What m turns cost is
m·µ + √m·σ·z: µ the mean of a bootstrap resample of the n turns' costs, σ their standard deviation, z standard normal.
Of the draws of all this, the median is what is expected, and the 5% and 95% quantiles are the interval.

A turn costs the tokens and dollars of the calls it rests on, as if none were remembered, times what running ahead
wasted so far; its wall time is the run's mean, and varies as the seconds of its calls do. What changes in a run (a
judge that slows down, questions that run out) is not foreseen: only the newest turns count, so that it is noticed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nanoflux_local.ledger.views import LedgerView

Floats = npt.NDArray[np.float64]
NEWEST, DRAWS = 500, 4_000
ENOUGH_TURNS, ENOUGH_KEPT = 8, 3
"""With fewer turns or kept examples than these, an interval would say more about the prior than about the run."""
LEVEL = 0.9
COSTS = ("seconds", "tokens", "usd")


@dataclass(frozen=True, slots=True)
class Turns:
    """What the newest committed turns say: which were kept, shape (n,), and what each cost, shape (n, 3) by `COSTS`."""

    kept: npt.NDArray[np.bool_]
    costs: Floats


def forecast(view: LedgerView, summary: dict[str, Any]) -> dict[str, Any]:
    """What `run show --json` gives under `forecast`; `found` is the run's summary."""
    hours = summary["seconds"] / 3600
    shown: dict[str, Any] = {
        "kept_per_hour": round(summary["kept"] / hours, 3) if hours else None,
        "reason": "",
        "level": LEVEL,
        "reaches_target": None,
        **dict.fromkeys(("turns", *COSTS)),
    }
    missing, left = summary["target"] - summary["kept"], summary["max_turns"] - summary["turns"]
    if missing <= 0 or left <= 0:
        return {**shown, "reason": "it has come to its end"}
    turns = newest_turns(view, summary)
    if len(turns.kept) < ENOUGH_TURNS or turns.kept.sum() < ENOUGH_KEPT:
        return {**shown, "reason": f"too early: it takes {ENOUGH_TURNS} turns, {ENOUGH_KEPT} of them kept"}
    return {**shown, **predict(turns, missing, left)}


def newest_turns(view: LedgerView, summary: dict[str, Any]) -> Turns:
    """The newest turns of a run in any order, with their costs scaled as the module says."""
    rows = list(
        view.rows(
            "SELECT newest.kept, coalesce(sum(calls.seconds), 0.0) AS seconds, coalesce(sum(calls.usd), 0.0) AS usd,"
            " coalesce(sum(calls.prompt_tokens + calls.completion_tokens), 0) AS tokens"
            " FROM (SELECT id, kept FROM turns WHERE run = ? ORDER BY number DESC LIMIT ?) AS newest"
            " LEFT JOIN turn_calls ON turn_calls.turn = newest.id LEFT JOIN calls ON calls.id = turn_calls.call"
            " GROUP BY newest.id",
            summary["run"],
            NEWEST,
        )
    )
    costs = np.array([[row[name] for name in COSTS] for row in rows], dtype=np.float64).reshape(-1, len(COSTS))
    if len(costs):
        costs[:, 0] = _wall(costs[:, 0], summary["seconds"] / summary["turns"])
        costs[:, 1:] *= _waste(summary)
    return Turns(np.array([bool(row["kept"]) for row in rows]), costs)


def _wall(seconds: Floats, mean: float) -> Floats:
    """Seconds of calls, many of which ran at once, as seconds on the wall with this mean."""
    total = float(seconds.mean())
    return seconds * (mean / total) if total else np.full_like(seconds, mean)


def _waste(summary: dict[str, Any]) -> float:
    """Calls made over calls used: guesses that did not hold are paid too."""
    made, wasted = summary["calls"]["made"], summary["calls"]["wasted"]
    return float(made / (made - wasted)) if made > wasted else 1.0


def predict(turns: Turns, missing: int, left: int) -> dict[str, Any]:
    """The draws' medians and quantiles for `missing` more examples within `left` turns; always the same for the same
    turns.
    """
    rng = np.random.default_rng(0)
    n, kept = len(turns.kept), int(turns.kept.sum())
    chance = rng.beta(kept + 0.5, n - kept + 0.5, DRAWS)
    needed = missing + rng.negative_binomial(missing, chance)
    played = np.minimum(needed, left)
    means = turns.costs[rng.integers(0, n, (DRAWS, n))].mean(axis=1)
    noise = rng.standard_normal(DRAWS)[:, None] * turns.costs.std(axis=0, ddof=1)
    totals = np.maximum(0.0, played[:, None] * means + np.sqrt(played)[:, None] * noise)
    return {
        "reaches_target": round(float((needed <= left).mean()), 3),
        "turns": _span(played),
        **{name: _span(totals[:, column]) for column, name in enumerate(COSTS)},
    }


def _span(draws: Sequence[float] | npt.NDArray[Any]) -> dict[str, float]:
    low, middle, high = np.quantile(draws, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return {"expected": round(float(middle), 4), "low": round(float(low), 4), "high": round(float(high), 4)}
