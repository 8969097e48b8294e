"""Retries: whether a failed request is sent again, and when. One mechanism for every client; the SDKs' own are off.

A server that is busy is waited for, however often it says so; one that fails is asked a bounded number of times. The
pauses are drawn from zero to a bound that doubles, so that clients who failed together do not come back together.
"""

import random
from dataclasses import dataclass, field

from nanoflux_local.endpoints.faults import Seen

ATTEMPTS = 12
"""Requests of one call that may fail; with the pauses between them about a minute and a half."""
FIRST_ATTEMPTS = 4
"""The same for a server that cannot be reached and never answered: its address is probably wrong."""
EMPTY_ATTEMPTS = 6
"""Replies without text before one is taken to be what the model says."""
PATIENCE_S = 3600.0
"""How long one call waits for a server that says it is busy."""
BASE_S = 0.5
LONGEST_S = 30.0


@dataclass(slots=True)
class Patience:
    """What is left of one call's. `pause` gives the seconds until the next attempt, or None where there is none."""

    _failed: int = 0
    _empty: int = 0
    _busy: int = 0
    _waited_s: float = 0.0
    _random: random.Random = field(default_factory=random.Random)

    def pause(self, fault: Seen, known: bool, elsewhere: bool) -> float | None:
        """After `fault`; `known` says whether the server ever answered, `elsewhere` whether another can be asked."""
        if fault.kind is None:
            return None
        if fault.kind == "rate_limited":
            return self._busy_pause(fault.retry_after_s)
        if fault.kind == "empty":
            self._empty += 1
            return self._drawn(0) if self._empty < EMPTY_ATTEMPTS else None
        self._failed += 1
        most = ATTEMPTS if known or fault.kind != "unreachable" else FIRST_ATTEMPTS
        if self._failed >= most:
            return None
        if fault.gone and elsewhere:
            return 0.0
        return max(self._drawn(self._failed - 1), fault.retry_after_s or 0.0)

    def _busy_pause(self, asked_s: float | None) -> float | None:
        drawn = self._drawn(self._busy)
        self._busy += 1
        pause = drawn if asked_s is None else max(drawn, asked_s + self._random.uniform(0, BASE_S))  # it may ask for 0
        self._waited_s += pause
        return pause if self._waited_s <= PATIENCE_S else None

    def _drawn(self, doublings: int) -> float:
        return self._random.uniform(0, min(LONGEST_S, BASE_S * 2 ** min(doublings, 16)))
