"""Missing calls: the calls that a replay with other settings needs but the ledger lacks, and their estimated cost.

The estimate for a turn is the mean cost, over the recorded turns, of all calls from one with the kind and role of the
missing call to the end of the turn. For each call that the new settings add to a turn (more checks, more answers of the
defender), the run's mean cost of a call of that kind and role is added.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nanoflux_local.config import PROGRAM, RunConfig
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.roles.checks.base import list_enabled_checks


@dataclass(frozen=True, slots=True)
class MissingCall:
    """The kind of a call, and the role that makes the call. A turn that cannot be completed has one of these for its
    first missing call; the recorded costs are also stored by kind and role.
    """

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
    """The calls that the `turns` with an unknown outcome need. `at_least` counts one call for each of these turns,
    `expected` also the calls that usually follow. `by` counts the first missing calls by kind and role. `tokens` and
    `usd` are the expected cost; `usd` is None if no endpoint of the run has a price.
    """

    turns: int
    at_least: int
    expected: int
    by: list[MissingCallCount]
    tokens: int
    usd: float | None


@dataclass(frozen=True, slots=True)
class CallCost:
    """A number of calls, and what they cost. The numbers are means, so they need not be integers."""

    calls: float = 0.0
    tokens: float = 0.0
    usd: float = 0.0

    def plus(self, other: "CallCost") -> "CallCost":
        return CallCost(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def times(self, factor: float) -> "CallCost":
        return CallCost(self.calls * factor, self.tokens * factor, self.usd * factor)


@dataclass(slots=True)
class RecordedCosts:
    """The mean costs of a run's calls by kind and role: `per_call` is the cost of one such call, `remaining` that of
    the call and all later calls of its turn. `defence_calls` is the mean number of the defender's chat calls in turns
    that reached the defender.
    """

    per_call: dict[MissingCall, CallCost] = field(default_factory=dict)
    remaining: dict[MissingCall, CallCost] = field(default_factory=dict)
    defence_calls: float = 0.0

    @classmethod
    def load(cls, view: LedgerView, run: str) -> "RecordedCosts":
        """Compute the costs from the calls of the run's committed turns."""
        calls_by_turn: dict[int, list[tuple[MissingCall, CallCost]]] = defaultdict(list)
        for row in view.rows(
            "SELECT turn_calls.turn, calls.kind, calls.role, calls.prompt_tokens + calls.completion_tokens AS tokens,"
            " calls.usd FROM turns JOIN turn_calls ON turn_calls.turn = turns.id"
            " JOIN calls ON calls.id = turn_calls.call WHERE turns.run = ? ORDER BY turn_calls.turn, position",
            run,
        ):
            call, cost = MissingCall(row["kind"], row["role"]), CallCost(1, row["tokens"], row["usd"])
            calls_by_turn[row["turn"]].append((call, cost))
        per_call: dict[MissingCall, list[CallCost]] = defaultdict(list)
        remaining: dict[MissingCall, list[CallCost]] = defaultdict(list)
        # Each turn is read backwards, so that `remaining_cost` adds up the costs from a call to the end of the turn.
        for calls in calls_by_turn.values():
            remaining_cost = CallCost()
            for call, cost in reversed(calls):
                remaining_cost = remaining_cost.plus(cost)
                per_call[call].append(cost)
                remaining[call].append(remaining_cost)
        defence_counts = [sum(call == DEFENCE_CALL for call, _ in calls) for calls in calls_by_turn.values()]
        nonzero_counts = [count for count in defence_counts if count]
        mean_defences = sum(nonzero_counts) / len(nonzero_counts) if nonzero_counts else 1.0
        return cls(_average_costs(per_call), _average_costs(remaining), mean_defences)


DEFENCE_CALL = MissingCall("chat", "defender")
"""The kind and role of the defender's chat calls."""


def _average_costs(costs_by_call: Mapping[MissingCall, Sequence[CallCost]]) -> dict[MissingCall, CallCost]:
    """The mean cost for each kind and role."""
    means = {}
    for call, costs in costs_by_call.items():
        total = CallCost()
        for cost in costs:
            total = total.plus(cost)
        means[call] = total.times(1 / len(costs))
    return means


def count_missing(
    missing_calls: Sequence[MissingCall], recorded: RecordedCosts, old: RunConfig, new: RunConfig, priced: bool
) -> MissingCalls:
    """Count `missing_calls`, the first missing call of each turn, and estimate the calls, tokens and dollars to
    complete the turns. `priced` says whether any endpoint of the run has a price.
    """
    added_cost = CallCost()
    for call, count in find_added_calls(recorded, old, new).items():
        added_cost = added_cost.plus(recorded.per_call.get(call, CallCost(1)).times(count))
    total = added_cost.times(len(missing_calls))
    for call in missing_calls:
        total = total.plus(recorded.remaining.get(call, CallCost(1)))
    count_by_call = Counter(missing_calls)
    return MissingCalls(
        turns=len(missing_calls),
        at_least=len(missing_calls),
        expected=round(total.calls),
        by=[
            MissingCallCount(call.kind, call.role, count_by_call[call])
            for call in sorted(count_by_call, key=lambda call: (call.kind, call.role))
        ],
        tokens=round(total.tokens),
        usd=round(total.usd, 4) if priced else None,
    )


def find_added_calls(recorded: RecordedCosts, old: RunConfig, new: RunConfig) -> dict[MissingCall, float]:
    """How many more calls a turn makes, at most, with the settings `new` than with `old`, by kind and role."""
    added_calls: defaultdict[MissingCall, float] = defaultdict(float)
    if new.roles.judge.endpoint != PROGRAM:  # a program judges without checks
        for check in list_enabled_checks(new.judge):
            if check.name not in old.judge.check_names:
                for kind, count in check.count_calls(new.judge).items():
                    added_calls[MissingCall(kind, "judge")] += count
    added_defences = max(0, new.samples - old.samples) * recorded.defence_calls
    if added_defences:
        added_calls[DEFENCE_CALL] = added_defences
    return dict(added_calls)
