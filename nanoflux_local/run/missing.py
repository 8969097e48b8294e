"""Missing calls: the calls that a replay with other settings needs but the ledger lacks, and their estimated cost.

A turn that misses a call is assumed to need that call and all later calls of the turn. Their cost is the mean over the
recorded calls with the same kind and role, each taken together with the later calls of its turn. For each call that the
new settings add to a turn (more checks, more answers of the defender), the run's mean cost of a call of that kind and
role is added.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nanoflux_local.config import PROGRAM, RunConfig
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.roles.checks.base import list_enabled_checks


@dataclass(frozen=True, slots=True)
class CallType:
    """The kind of a call ("chat", "embed" …), and the role that makes the call."""

    kind: str
    role: str


@dataclass(frozen=True, slots=True)
class MissingCallCount:
    """The number of turns whose first missing call has this kind and role."""

    kind: str
    role: str
    calls: int


@dataclass(frozen=True, slots=True)
class MissingCalls:
    """The calls that the `turns` with an unknown outcome need. `at_least` counts one call for each of these turns;
    `expected` also counts the calls that usually follow it. `by` counts the first missing calls by kind and role.
    `tokens` and `usd` are the expected cost; `usd` is None if no endpoint of the run has a price.
    """

    turns: int
    at_least: int
    expected: int
    by: list[MissingCallCount]
    tokens: int
    usd: float | None


@dataclass(frozen=True, slots=True)
class CallCost:
    """A number of calls, and their cost. All values may be means, so `calls` and `tokens` need not be integers."""

    calls: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0

    def plus(self, other: "CallCost") -> "CallCost":
        return CallCost(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def times(self, factor: float) -> "CallCost":
        return CallCost(self.calls * factor, self.tokens * factor, self.usd * factor)


@dataclass(slots=True)
class RecordedCosts:
    """The mean costs of a run's calls by their type: `per_call` is the cost of one call, `remaining` the cost of a call
    and all later calls of its turn. `defence_calls` is the mean number of the defender's chat calls in turns that
    reached the defender.
    """

    per_call: dict[CallType, CallCost] = field(default_factory=dict)
    remaining: dict[CallType, CallCost] = field(default_factory=dict)
    defence_calls: float = 0.0

    @classmethod
    def load(cls, view: LedgerView, run: str) -> "RecordedCosts":
        """Compute the costs from the calls of the run's committed turns."""
        calls_by_turn: dict[int, list[tuple[CallType, CallCost]]] = defaultdict(list)
        for row in view.rows(
            "SELECT turn_calls.turn, calls.kind, calls.role, calls.prompt_tokens + calls.completion_tokens AS tokens,"
            " calls.usd FROM turns JOIN turn_calls ON turn_calls.turn = turns.id"
            " JOIN calls ON calls.id = turn_calls.call WHERE turns.run = ? ORDER BY turn_calls.turn, position",
            run,
        ):
            call_type = CallType(row["kind"], row["role"])
            calls_by_turn[row["turn"]].append((call_type, CallCost(1, row["tokens"], row["usd"])))
        per_call: dict[CallType, list[CallCost]] = defaultdict(list)
        remaining: dict[CallType, list[CallCost]] = defaultdict(list)
        # Backwards, so that `remaining_cost` adds up the costs from the current call to the end of its turn.
        for calls in calls_by_turn.values():
            remaining_cost = CallCost()
            for call_type, cost in reversed(calls):
                remaining_cost = remaining_cost.plus(cost)
                per_call[call_type].append(cost)
                remaining[call_type].append(remaining_cost)
        call_types_by_turn = [[call_type for call_type, _ in calls] for calls in calls_by_turn.values()]
        defence_counts = [call_types.count(DEFENCE) for call_types in call_types_by_turn if DEFENCE in call_types]
        mean_defences = sum(defence_counts) / len(defence_counts) if defence_counts else 1.0
        return cls(_average_costs(per_call), _average_costs(remaining), mean_defences)


DEFENCE = CallType("chat", "defender")
"""The type of the defender's chat calls."""


def _average_costs(costs_by_type: Mapping[CallType, Sequence[CallCost]]) -> dict[CallType, CallCost]:
    """The mean cost for each type of call."""
    means = {}
    for call_type, costs in costs_by_type.items():
        total = CallCost()
        for cost in costs:
            total = total.plus(cost)
        means[call_type] = total.times(1 / len(costs))
    return means


def count_missing(
    missing_calls: Sequence[CallType], recorded: RecordedCosts, old: RunConfig, new: RunConfig, priced: bool
) -> MissingCalls:
    """Count `missing_calls` (for each incomplete turn, the type of its first missing call), and estimate the calls,
    tokens and dollars needed to complete these turns with the configuration `new`. `priced` says whether any endpoint
    of the run has a price.
    """
    cost_without_record = CallCost(calls=1)
    added_cost = CallCost()
    for call_type, count in find_added_calls(recorded, old, new).items():
        added_cost = added_cost.plus(recorded.per_call.get(call_type, cost_without_record).times(count))
    total = added_cost.times(len(missing_calls))
    for call_type in missing_calls:
        total = total.plus(recorded.remaining.get(call_type, cost_without_record))
    count_by_type = Counter(missing_calls)
    sorted_types = sorted(count_by_type, key=lambda call_type: (call_type.kind, call_type.role))
    return MissingCalls(
        turns=len(missing_calls),
        at_least=len(missing_calls),
        expected=round(total.calls),
        by=[MissingCallCount(call_type.kind, call_type.role, count_by_type[call_type]) for call_type in sorted_types],
        tokens=round(total.tokens),
        usd=round(total.usd, 4) if priced else None,
    )


def find_added_calls(recorded: RecordedCosts, old: RunConfig, new: RunConfig) -> dict[CallType, float]:
    """How many more calls a turn makes, at most, with the configuration `new` than with `old`, by type of call."""
    added_calls: defaultdict[CallType, float] = defaultdict(float)
    if new.roles.judge.endpoint != PROGRAM:  # a program judges without checks
        for check in list_enabled_checks(new.judge):
            if check.name not in old.judge.check_names:
                for kind, count in check.count_calls(new.judge).items():
                    added_calls[CallType(kind, "judge")] += count
    added_defences = max(0, new.samples - old.samples) * recorded.defence_calls
    if added_defences:
        added_calls[DEFENCE] = added_defences
    return dict(added_calls)
