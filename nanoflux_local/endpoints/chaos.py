"""Draws a fake server's faults from a seed, the request, and the number of times that the request was received.

The first, second, … copy of a request therefore always gets the same fault, whatever other requests arrive in between.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

from nanoflux_local.records import derive_seed

InjectedFault = Literal["rate_limited", "server_error", "reset", "stall", "garbled", "empty"]
INJECTED_FAULTS: tuple[InjectedFault, ...] = get_args(InjectedFault)
"""All kinds of faults. A client reports each fault under the same name, except that it reports a "stall" as a
timeout.
"""


@dataclass(slots=True)
class Chaos:
    """The rates of faults, and the number of faults of each kind that were injected (`fault_counts`).

    `rates` are shares of all responses; `reasoning_share` is the share of good responses with reasoning before the
    text. A stalled response is sent after `stall_s` seconds, unless the client has disconnected; a rate-limited one
    asks the client to wait `retry_after_s` seconds.
    """

    rates: dict[InjectedFault, float] = field(default_factory=dict)
    reasoning_share: float = 0.0
    seed: int = 0
    stall_s: float = 60.0
    retry_after_s: float = 0.05
    fault_counts: Counter[str] = field(default_factory=Counter)
    _request_counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def with_equal_rates(cls, share: float, seed: int = 0, **settings: float) -> "Chaos":
        """Chaos in which a `share` of all responses fails, and all kinds of faults are equally likely."""
        return cls(dict.fromkeys(INJECTED_FAULTS, share / len(INJECTED_FAULTS)), seed=seed, **settings)  # type: ignore[arg-type]

    def draw_fault(self, request_digest: str) -> tuple[InjectedFault | None, random.Random]:
        """Draw the fault of the next response to a request (None: no fault), and return it with a random generator for
        the rest of the response.
        """
        self._request_counts[request_digest] += 1
        rng = random.Random(derive_seed(self.seed, request_digest, self._request_counts[request_digest]))
        remaining_draw = rng.random()  # each fault occupies a part of [0, 1) as long as its rate
        for fault, rate in self.rates.items():
            if remaining_draw < rate:
                return fault, rng
            remaining_draw -= rate
        return None, rng
