"""Decides whether and when a failed request is sent again. The SDKs' own retries are off.

The time that a call waits for busy servers is limited, and so is the number of its failures. Each pause is drawn at
random between zero and a bound that doubles, so that requests which failed together are not retried together.
"""

import random
from dataclasses import dataclass, field

from nanoflux_local.endpoints.faults import ClassifiedFault
from nanoflux_local.endpoints.remote.replicas import Replica

ATTEMPTS = 12
"""The number of failed requests after which a call fails. With the pauses between them, they take about 90 seconds."""
FIRST_ATTEMPTS = 4
"""The number of attempts for an unreachable server that has never responded: its address is probably wrong."""
EMPTY_ATTEMPTS = 6
"""After this many replies without text, the empty reply is accepted as the model's reply."""
MAX_WAIT_S = 3600.0
"""The maximum total time that one call waits for busy servers."""
BASE_S = 0.5
"""The upper bound of the first pause; the bound doubles with each pause, up to `MAX_PAUSE_S`."""
MAX_PAUSE_S = 30.0


@dataclass(slots=True)
class RetryState:
    """Counts the failures and pauses of one call, and decides whether it is retried. `failed_replicas` are the replicas
    on which the call has failed since its last pause; `waited_s` is the total time that the call has waited.
    """

    failed_replicas: list[Replica] = field(default_factory=list)
    waited_s: float = 0.0
    _busy_s: float = 0.0  # the part of `waited_s` that was spent on busy servers
    _failure_count: int = 0
    _empty_count: int = 0
    _busy_count: int = 0
    _random: random.Random = field(default_factory=random.Random)

    def pause_after_fault(self, fault: ClassifiedFault, has_responded: bool, another_is_free: bool) -> float | None:
        """Seconds until the next attempt after `fault`; None if the call fails. `has_responded` is true if the server
        ever responded; `another_is_free` is true if another replica, on which this call has not failed, is free.
        """
        pause_s = self._choose_pause(fault, has_responded, another_is_free)
        self.waited_s += pause_s or 0.0
        return pause_s

    def wait_for_busy_server(self, pause_s: float) -> float | None:
        """Seconds to wait for a server that asks for a pause of `pause_s`; None if this pause is too long."""
        if self._busy_s + pause_s > MAX_WAIT_S:
            return None
        wait_s = pause_s + self._random.uniform(0, BASE_S)
        self._busy_s += wait_s
        self.waited_s += wait_s
        return wait_s

    def _choose_pause(self, fault: ClassifiedFault, has_responded: bool, another_is_free: bool) -> float | None:
        """Count the fault, and choose the pause as `pause_after_fault` describes."""
        if fault.kind is None:
            return None
        if fault.kind == "rate_limited":
            return 0.0 if another_is_free else self._draw_busy_pause()
        if fault.kind == "empty":
            self._empty_count += 1
            return self._draw_pause(0) if self._empty_count < EMPTY_ATTEMPTS else None
        self._failure_count += 1
        max_failures = ATTEMPTS if has_responded or fault.kind != "unreachable" else FIRST_ATTEMPTS
        if self._failure_count >= max_failures:
            return None
        return 0.0 if fault.may_be_down and another_is_free else self._draw_pause(self._failure_count - 1)

    def _draw_busy_pause(self) -> float | None:
        """Draw the pause after a busy response; None if the call has waited too long. A wait that the response states
        is added separately (`wait_for_busy_server`).
        """
        pause_s = self._draw_pause(self._busy_count)
        self._busy_count += 1
        self._busy_s += pause_s
        return pause_s if self._busy_s <= MAX_WAIT_S else None

    def _draw_pause(self, doublings: int) -> float:
        """Draw a pause between zero and `BASE_S`, doubled `doublings` times."""
        return self._random.uniform(0, min(MAX_PAUSE_S, BASE_S * 2 ** min(doublings, 16)))
