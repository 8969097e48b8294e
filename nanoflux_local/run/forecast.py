"""Forecasts how much longer a run will take and how much more it will cost, with intervals. The ledger is only read.

If k of the newest n turns were kept, the probability p that a turn is kept is distributed as Beta(k + ½, n − k + ½)
(Jeffreys' prior). The number of turns that r more examples need is r + NegativeBinomial(r, p), capped at the turn
limit. The cost of m turns is m·µ + √m·σ·z, where µ is the mean of a bootstrap resample of the n turns' costs, σ is
their standard deviation, and z is standard normal. The forecast is the median of the simulated totals; the interval
runs from their 5% to their 95% quantile.

The tokens and dollars of a turn are those of the calls that it uses, including calls whose replies were already stored.
They are multiplied by the run's ratio of calls made to calls used, since some calls of speculative turns are discarded.
The seconds of a turn's calls are scaled so that their mean is the mean wall time of these turns, without pauses and
stalls (long gaps in which no reply arrives and no turn is committed). Changes during a run, such as a judge that slows
down or questions that run out, are not modelled. The forecast follows such changes because it uses only the newest
turns.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from nanoflux_local.ledger.calls import EARLIER, TRIAL
from nanoflux_local.ledger.summary import RunSummary
from nanoflux_local.ledger.views import LedgerView

Floats = npt.NDArray[np.float64]
NEWEST_TURNS = 500
"""The maximum number of turns that a forecast uses: the newest ones."""
DRAWS = 4_000
"""The number of totals that a forecast simulates."""
MIN_TURNS, MIN_KEPT = 8, 3
"""The minimum numbers of turns and of kept examples for a forecast. With fewer, its intervals would depend more on the
prior than on the run.
"""
LEVEL = 0.9
"""The nominal coverage of a forecast's interval: the probability that it contains the true value."""
STALL_S, STALL_CALL_FACTOR = 30.0, 10.0
"""A gap without a reply or a committed turn is a pause or a stall if it is longer than `STALL_S` seconds and longer
than `STALL_CALL_FACTOR` times the median duration of a call.
"""
COST_COLUMNS = ("seconds", "tokens", "usd")
"""The columns of an array of costs, in order."""
ENDED = "the run has ended"
"""The reason why a forecast is not possible after the end of a run."""


@dataclass(frozen=True, slots=True)
class RecentTurns:
    """The newest committed turns: which were kept, shape (n,), and the cost of each, shape (n, 3), with the columns
    `COST_COLUMNS`.
    """

    kept: npt.NDArray[np.bool_]
    costs: Floats

    @property
    def allow_forecast(self) -> bool:
        """Whether there are enough turns and kept examples for a forecast."""
        return len(self.kept) >= MIN_TURNS and bool(self.kept.sum() >= MIN_KEPT)


@dataclass(frozen=True, slots=True)
class RunPosition:
    """How far a run has progressed, and what it has used so far: the input of a forecast. No turn used the
    `calls_wasted`.
    """

    run: str
    turns: int
    max_turns: int
    kept: int
    target: int
    seconds: float
    calls_made: int
    calls_wasted: int

    @classmethod
    def of(cls, summary: RunSummary) -> "RunPosition":
        """The position of the run that the summary describes."""
        return cls(
            summary.run, summary.turns, summary.max_turns, summary.kept, summary.target, summary.seconds,
            summary.calls.made, summary.calls.wasted,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """A forecast value: its median (`expected`), and the bounds of the interval that covers it with probability
    `LEVEL`.
    """

    expected: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run still needs, or the `reason` why that cannot be forecast ("" if it can). `reaches_target` is the
    probability that the target is reached within the turn limit; `level` is the nominal coverage of each interval.
    """

    kept_per_hour: float | None = None
    reason: str = ""
    level: float = LEVEL
    reaches_target: float | None = None
    turns: Span | None = None
    seconds: Span | None = None
    tokens: Span | None = None
    usd: Span | None = None


def forecast(view: LedgerView, position: RunPosition) -> Forecast:
    """Forecast the rest of a run, as in `forecast` of `run show --json`."""
    hours = position.seconds / 3600
    kept_per_hour = round(position.kept / hours, 3) if hours else None
    examples_needed, turns_left = position.target - position.kept, position.max_turns - position.turns
    if examples_needed <= 0 or turns_left <= 0:
        return Forecast(kept_per_hour, ENDED)
    turns = load_newest_turns(view, position)
    if not turns.allow_forecast:
        return Forecast(kept_per_hour, f"too early: a forecast needs {MIN_TURNS} turns, {MIN_KEPT} of them kept")
    return replace(predict(turns, examples_needed, turns_left), kept_per_hour=kept_per_hour)


def load_newest_turns(view: LedgerView, position: RunPosition) -> RecentTurns:
    """The newest turns of a run in no particular order, with their costs scaled as the module docstring describes."""
    rows = list(
        view.rows(
            "SELECT newest.kept, newest.at, coalesce(sum(calls.seconds), 0.0) AS seconds,"
            " coalesce(sum(calls.usd), 0.0) AS usd,"
            " coalesce(sum(calls.prompt_tokens + calls.completion_tokens), 0) AS tokens"
            " FROM (SELECT id, kept, at FROM turns WHERE run = ? ORDER BY number DESC LIMIT ?) AS newest"
            " LEFT JOIN turn_calls ON turn_calls.turn = newest.id LEFT JOIN calls ON calls.id = turn_calls.call"
            " GROUP BY newest.id",
            position.run,
            NEWEST_TURNS,
        )
    )
    cost_rows = [[row[name] for name in COST_COLUMNS] for row in rows]
    costs = np.array(cost_rows, dtype=np.float64).reshape(-1, len(COST_COLUMNS))
    if len(costs):
        wall_s = measure_wall_time(view, position, [row["at"] for row in rows])
        costs[:, 0] = _scale_to_wall_time(costs[:, 0], wall_s / len(costs))
        costs[:, 1:] *= _estimate_waste_factor(position)
    return RecentTurns(np.array([bool(row["kept"]) for row in rows]), costs)


def measure_wall_time(view: LedgerView, position: RunPosition, commit_times: Sequence[str]) -> float:
    """The wall time spent on the turns that were committed at these times, in seconds, without pauses and stalls.

    The time starts at the first call of the run if `commit_times` contains all its turns, otherwise at the first
    commit.
    """
    since = "" if len(commit_times) == position.turns else min(commit_times)
    calls = list(_list_calls_since(view, position.run, since))
    reply_times = [reply_time for reply_time, _ in calls]
    moments = [_read_moment(moment) for moment in (*commit_times, *reply_times)]
    if calls and not since:  # the run's first call is the last in the list
        first_reply_time, first_call_s = calls[-1]
        moments.append(_read_moment(first_reply_time) - first_call_s)
    median_call_s = float(np.median([seconds for _, seconds in calls])) if calls else 0.0
    longest_working_gap_s = max(STALL_S, STALL_CALL_FACTOR * median_call_s)
    gaps = np.diff(np.sort(moments))
    return float(gaps[gaps <= longest_working_gap_s].sum())


def _list_calls_since(view: LedgerView, run: str, since: str) -> Iterator[tuple[str, float]]:
    """The reply time and the duration in seconds of each call that a turn made at or after the time `since` ("": since
    the start), the newest first. Calls of the trial and for questions of other runs are left out.
    """
    sql = "SELECT at, seconds FROM calls WHERE run = ? AND role NOT IN (?, ?) ORDER BY id DESC"
    for row in view.rows(sql, run, EARLIER, TRIAL):
        if row["at"] < since:
            return
        yield row["at"], row["seconds"]


def _read_moment(text: str) -> float:
    """A stored time in seconds since the epoch; NaN if `text` is damaged, so that the gaps before and after it do not
    count.
    """
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return math.nan


def _scale_to_wall_time(seconds: Floats, mean_wall_s: float) -> Floats:
    """Scale the seconds of calls, which were partly concurrent, so that their mean is `mean_wall_s`."""
    mean_call_s = float(seconds.mean())
    return seconds * (mean_wall_s / mean_call_s) if mean_call_s else np.full_like(seconds, mean_wall_s)


def _estimate_waste_factor(position: RunPosition) -> float:
    """The ratio of calls made to calls used; it is above 1 if calls of speculative turns were discarded."""
    made, wasted = position.calls_made, position.calls_wasted
    return float(made / (made - wasted)) if made > wasted else 1.0


def predict(turns: RecentTurns, examples_needed: int, turns_left: int) -> Forecast:
    """Forecast what it takes to keep `examples_needed` more examples within `turns_left` turns, by the model described
    at the top of the module. The random numbers are seeded, so equal arguments yield equal forecasts.
    """
    rng = np.random.default_rng(0)
    turn_count, kept = len(turns.kept), int(turns.kept.sum())
    keep_probability = rng.beta(kept + 0.5, turn_count - kept + 0.5, DRAWS)
    turns_needed = examples_needed + rng.negative_binomial(examples_needed, keep_probability)
    turns_run = np.minimum(turns_needed, turns_left)
    resampled_turns = rng.integers(0, turn_count, (DRAWS, turn_count))  # one bootstrap resample for each draw
    mean_costs = turns.costs[resampled_turns].mean(axis=1)
    noise = rng.standard_normal(DRAWS)[:, None] * turns.costs.std(axis=0, ddof=1)
    totals = np.maximum(0.0, turns_run[:, None] * mean_costs + np.sqrt(turns_run)[:, None] * noise)
    seconds, tokens, usd = (_make_span(totals[:, column]) for column in range(len(COST_COLUMNS)))
    return Forecast(
        reaches_target=round(float((turns_needed <= turns_left).mean()), 3),
        turns=_make_span(turns_run), seconds=seconds, tokens=tokens, usd=usd,
    )  # fmt: skip


def _make_span(draws: Sequence[float] | npt.NDArray[Any]) -> Span:
    """The median and the interval of simulated values."""
    low, median, high = np.quantile(draws, [(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2])
    return Span(round(float(median), 4), round(float(low), 4), round(float(high), 4))
