"""Streaks: consecutive attempts that got no readable reply at the same step from the same model. A streak pauses a run.

Attempts are counted over committed turns in turn order, so that a run pauses at the same turn at any concurrency and
after any number of restarts.
"""

from collections import Counter
from dataclasses import dataclass

from nanoflux_local.transcript import AttemptStep, TurnRecord

EMBEDDER = "the embedder"
"""How a message refers to the endpoint of the embedding step."""
StepAndEndpoint = tuple[AttemptStep, str]
"""A step of an attempt, and the name of the endpoint (or program) that performs it."""


@dataclass(frozen=True, slots=True)
class Streak:
    """A streak: the last `attempts` attempts that asked `endpoint` at `step` got no readable reply. `reason` says why
    the last of them failed.
    """

    step: AttemptStep
    endpoint: str
    attempts: int
    reason: str


class Streaks:
    """Counts streaks; every committed turn must be added, in order."""

    def __init__(self) -> None:
        self._attempts: Counter[StepAndEndpoint] = Counter()
        self._attempts_at_report: dict[StepAndEndpoint, int] = {}

    def add(self, record: TurnRecord, limit: int) -> Streak | None:
        """Count the attempts of a turn. If the turn's last attempt extends a streak, and the streak's length has
        reached a new multiple of `limit`, returns the streak; otherwise None. A resumed run thus makes about `limit`
        more attempts before it pauses again. If `limit` is 0, always returns None.
        """
        for attempt in record.attempts:
            for step in attempt.readable_steps:
                key = (step, _find_endpoint(record, step))
                self._attempts[key] = self._attempts_at_report[key] = 0
            unreadable_step = attempt.unreadable_step
            if unreadable_step:
                self._attempts[unreadable_step, _find_endpoint(record, unreadable_step)] += 1
        last_step = record.last_attempt.unreadable_step
        if not last_step or not limit:
            return None
        endpoint = _find_endpoint(record, last_step)
        key = (last_step, endpoint)
        attempts = self._attempts[key]
        reported_attempts = self._attempts_at_report.get(key, 0)
        reaches_new_multiple = attempts // limit > reported_attempts // limit
        if not reaches_new_multiple:
            return None
        self._attempts_at_report[key] = attempts
        return Streak(last_step, endpoint, attempts, record.last_attempt.reason)


def _find_endpoint(record: TurnRecord, step: AttemptStep) -> str:
    """The name of the endpoint (or program) that performs a step of the turn."""
    endpoint_by_step = {"attack": record.attacker, "embedding": EMBEDDER, "defence": record.defender}
    return endpoint_by_step.get(step, record.judge)


def has_readable_reply(record: TurnRecord) -> bool:
    """Whether any attempt of a turn got a reply that could be read."""
    return any(attempt.readable_steps for attempt in record.attempts)
