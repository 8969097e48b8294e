"""Saturation: nearly all recent attempts of a run are rejected for the same reason, so the run will miss its target.

Attempts are counted over committed turns in turn order, so that a run pauses at the same turn at any concurrency and
after any number of restarts.
"""

from collections import Counter, deque
from dataclasses import dataclass

from nanoflux_local.config import RunConfig
from nanoflux_local.quantities import format_quantity
from nanoflux_local.transcript import KEPT, Outcome, TurnRecord

NEARLY_ALL = 0.95
"""A run is saturated if at least this share of its recent attempts had the same outcome, and its target is out of
reach.
"""


ADVICE: dict[Outcome, str] = {
    "novelty_rejected": "add seed data, or draw more seeds for a question (seeds.max)",
    "contaminated": "choose other seed datasets, whose questions do not repeat held-out items",
    "invalid": "read the judge's reasons with `nanoflux examples export-review`, then change the attacker or the judge",
    "low_confidence": "lower judge.confidence, or choose another judge",
    "defender_right": "choose a weaker defender or a stronger attacker",
    "unproven": "choose a stronger attacker, name stronger endpoints in judge.solvers, or lower judge.agreeing",
    "unparsed": "choose another attacker",
    "failed": "see the reasons with `nanoflux run show`",
}
"""What to change in a fork of a saturated run, by the outcome of nearly all its recent attempts."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """The state of a saturated run: `rejected` of its last `attempts` attempts ended in the same `outcome`. If this
    continues, the run ends with about `expected` of `target` examples.
    """

    outcome: Outcome
    rejected: int
    attempts: int
    expected: int
    target: int

    def describe(self) -> str:
        """The message of the paused run: what happened, and how many examples it can expect."""
        attempts, examples = format_quantity(self.attempts, "attempt"), format_quantity(self.target, "example")
        return (
            f"{self.rejected} of the last {attempts} ended as {self.outcome.replace('_', ' ')};"
            f" at this rate the run keeps about {self.expected} of {examples} by its turn limit"
        )

    def advise(self, run: str) -> str:
        """What the user can do: fork the run with a change, or resume it."""
        return (
            f"{ADVICE[self.outcome]}, in a fork; or `nanoflux run resume {run}`, which makes as many attempts again"
            f" before it pauses (to never pause: `nanoflux run set {run} pause_when_saturated=0`)"
        )


class RecentAttempts:
    """Detects saturation from the outcomes of the newest attempts. Every committed turn must be added, in order."""

    def __init__(self) -> None:
        self._outcomes_by_turn: deque[tuple[Outcome, ...]] = deque()
        self._turns = self._kept = self._attempts_since_report = 0

    def add(self, record: TurnRecord, config: RunConfig) -> Saturation | None:
        """Count a turn. Returns the run's saturation; None if the run is not saturated, or if its saturation was
        reported fewer than `pause_when_saturated` attempts ago (so that a resumed run makes at least that many
        attempts).
        """
        limit = config.pause_when_saturated
        self._turns += 1
        self._kept += record.kept
        self._outcomes_by_turn.append(tuple(attempt.outcome for attempt in record.attempts))
        self._attempts_since_report += len(record.attempts)
        attempt_count = sum(len(outcomes) for outcomes in self._outcomes_by_turn)
        # Forget the oldest turn for as long as the newer turns alone have enough attempts.
        while self._outcomes_by_turn and attempt_count - len(self._outcomes_by_turn[0]) >= limit:
            attempt_count -= len(self._outcomes_by_turn.popleft())
        has_enough_attempts = attempt_count >= limit and self._attempts_since_report >= limit
        if not limit or not has_enough_attempts:
            return None
        count_by_outcome = Counter(outcome for outcomes in self._outcomes_by_turn for outcome in outcomes)
        outcome, count = count_by_outcome.most_common(1)[0]
        expected = self._forecast_kept(config)
        if outcome in KEPT or count < NEARLY_ALL * attempt_count or expected >= config.target:
            return None
        self._attempts_since_report = 0
        return Saturation(outcome, count, attempt_count, expected, config.target)

    def _forecast_kept(self, config: RunConfig) -> int:
        """The number of examples at the turn limit, if later turns are kept as often as the recent ones."""
        recent_kept_count = sum(outcomes[-1] in KEPT for outcomes in self._outcomes_by_turn)
        kept_share = recent_kept_count / len(self._outcomes_by_turn)
        turns_left = max(0, config.max_turns - self._turns)
        return self._kept + round(kept_share * turns_left)
