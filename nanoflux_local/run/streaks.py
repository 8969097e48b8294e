"""Streaks: how many attempts in a row got nothing to read at one step from one model, and when that is too many.

Counted over committed turns in turn order, so that a run pauses at the same turn whatever its concurrency and however
often it was stopped. Owns no reply and asks nobody.
"""

from collections import Counter
from dataclasses import dataclass

from nanoflux_local.transcript import Step, TurnRecord

EMBEDDER = "the embedder"
Place = tuple[Step, str]
"""A step of an attempt and who played it."""


@dataclass(frozen=True, slots=True)
class Streak:
    """`attempts` in a row with nothing to read from `player` at `step`; `reason` is the last one's."""

    step: Step
    player: str
    attempts: int
    reason: str


class Streaks:
    """Told every committed turn, in order."""

    def __init__(self) -> None:
        self._attempts: Counter[Place] = Counter()
        self._reported: dict[Place, int] = {}

    def add(self, record: TurnRecord, limit: int) -> Streak | None:
        """Count a turn. The streak that it brings to `limit` attempts, or to the next multiple: a run that is resumed
        plays on for as many. None where it brings none there, and for a limit of 0.
        """
        for attempt in record.attempts:
            for step in attempt.heard_at:
                place = (step, _player(record, step))
                self._attempts[place] = self._reported[place] = 0
            if attempt.silent_at:
                self._attempts[attempt.silent_at, _player(record, attempt.silent_at)] += 1
        last = record.last.silent_at
        if not last or not limit:
            return None
        place = (last, _player(record, last))
        attempts = self._attempts[place]
        if attempts // limit <= self._reported.get(place, 0) // limit:
            return None
        self._reported[place] = attempts
        return Streak(last, place[1], attempts, record.last.reason)


def _player(record: TurnRecord, step: Step) -> str:
    players = {"attack": record.attacker, "embedding": EMBEDDER, "defence": record.defender}
    return players.get(step, record.judge)


def heard_anything(record: TurnRecord) -> bool:
    """Whether any attempt of a turn got a reply that could be read."""
    return any(attempt.heard_at for attempt in record.attempts)
