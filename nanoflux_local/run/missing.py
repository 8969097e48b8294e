"""Missing calls: the calls that a replay with other settings needs but the ledger lacks, and their estimated cost.

The cost of completing a turn is estimated as the mean cost, in recorded turns, from a call of the same kind and role as
the missing call to the end of the turn. Settings that add calls to a turn (more checks, more answers of the defender)
add the run's mean cost of a call of that kind and role.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nanoflux_local.config import PROGRAM, RunConfig
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.roles.checks.base import list_enabled_checks


@dataclass(frozen=True, slots=True)
class MissingCall:
    """The kind of a call, and the role that makes the call. Describes the first call that a turn lacks, and serves as
    the key of the recorded costs.
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
    """The calls that turns with an unknown outcome need: `at_least` counts one call for each turn, `expected` also the
    calls that usually follow. `by` counts the first missing calls by kind and role. `tokens` and `usd` are the expected
    cost; `usd` is None if no endpoint of the run has a price.
    """

    turns: int
    at_least: int
    expected: int
    by: list[MissingCallCount]
    tokens: int
    usd: float | None


@dataclass(frozen=True, slots=True)
class CallCost:
    """A mean number of calls and what they cost."""

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
        """Read the calls of a run's committed turns."""
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
        # Backwards through each turn, so that the cost of the remaining calls accumulates.
        for calls in calls_by_turn.values():
            remaining_cost = CallCost()
            for call, cost in reversed(calls):
                remaining_cost = remaining_cost.plus(cost)
                per_call[call].append(cost)
                remaining[call].append(remaining_cost)
        counts_by_turn = [sum(call == DEFENCE_CALL for call, _ in calls) for calls in calls_by_turn.values()]
        defence_counts = [count for count in counts_by_turn if count]
        mean_defences = sum(defence_counts) / len(defence_counts) if defence_counts else 1.0
        return cls(_average_costs(per_call), _average_costs(remaining), mean_defences)


DEFENCE_CALL = MissingCall("chat", "defender")


def _average_costs(costs_by_call: Mapping[MissingCall, Sequence[CallCost]]) -> dict[MissingCall, CallCost]:
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
    """Count the first missing call of each turn, and estimate the calls, tokens and dollars to complete the turns."""
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
    check_calls: Counter[MissingCall] = Counter()
    if new.roles.judge.endpoint != PROGRAM:  # a program judges without checks
        for check in list_enabled_checks(new.judge):
            if check.name not in old.judge.check_names:
                check_calls.update(
                    {MissingCall(kind, "judge"): count for kind, count in check.count_calls(new.judge).items()}
                )
    added_calls = {call: float(count) for call, count in check_calls.items()}
    added_defences = max(0, new.samples - old.samples) * recorded.defence_calls
    if added_defences:
        added_calls[DEFENCE_CALL] = added_defences
    return added_calls
