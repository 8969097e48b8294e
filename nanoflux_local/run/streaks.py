"""Streaks: how many attempts in a row got no readable reply at one step from one model, and when a run should pause.

Attempts are counted over committed turns in turn order, so that a run pauses at the same turn at any concurrency and
after any number of stops.
"""

from collections import Counter
from dataclasses import dataclass

from nanoflux_local.transcript import AttemptStep, TurnRecord

EMBEDDER = "the embedder"
Place = tuple[AttemptStep, str]
"""A step of an attempt and the name of its player."""


@dataclass(frozen=True, slots=True)
class Streak:
    """`attempts` in a row got no readable reply from `player` at `step`; `reason` is that of the last attempt."""

    step: AttemptStep
    player: str
    attempts: int
    reason: str


class Streaks:
    """Counts streaks; every committed turn must be added, in order."""

    def __init__(self) -> None:
        self._attempts: Counter[Place] = Counter()
        self._reported: dict[Place, int] = {}

    def add(self, record: TurnRecord, limit: int) -> Streak | None:
        """Count a turn. Returns the streak that this turn brings to `limit` attempts or to a multiple of that (so that
        a resumed run plays `limit` more attempts before it pauses again), else None. With a limit of 0, returns None.
        """
        for attempt in record.attempts:
            for step in attempt.readable_steps:
                place = (step, _player(record, step))
                self._attempts[place] = self._reported[place] = 0
            if attempt.unreadable_step:
                self._attempts[attempt.unreadable_step, _player(record, attempt.unreadable_step)] += 1
        last = record.last.unreadable_step
        if not last or not limit:
            return None
        place = (last, _player(record, last))
        attempts = self._attempts[place]
        if attempts // limit <= self._reported.get(place, 0) // limit:
            return None
        self._reported[place] = attempts
        return Streak(last, place[1], attempts, record.last.reason)


def _player(record: TurnRecord, step: AttemptStep) -> str:
    players = {"attack": record.attacker, "embedding": EMBEDDER, "defence": record.defender}
    return players.get(step, record.judge)


def heard_anything(record: TurnRecord) -> bool:
    """Whether any attempt of a turn got a reply that could be read."""
    return any(attempt.readable_steps for attempt in record.attempts)
