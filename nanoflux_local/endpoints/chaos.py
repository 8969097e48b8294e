"""Chaos: draws the faults of a fake server from a seed, the request, and how often that request was received.

So the same requests meet the same faults in every run, whatever their order.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

from nanoflux_local.records import derive_seed

Trouble = Literal["rate_limited", "server_error", "reset", "stall", "garbled", "empty"]
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)
"""The faults that a client sees. The client reports a "stall" as a timeout."""


@dataclass(slots=True)
class Chaos:
    """The rates of faults, and counters of the faults drawn so far (`done`).

    `rates` are shares of all responses; `thinking` is the share of good responses with reasoning before the text. A
    stalled response is sent after `stall_s` seconds, when the client has given up.
    """

    rates: dict[Trouble, float] = field(default_factory=dict)
    thinking: float = 0.0
    seed: int = 0
    stall_s: float = 60.0
    retry_after_s: float = 0.05
    done: Counter[str] = field(default_factory=Counter)
    _received: Counter[str] = field(default_factory=Counter)

    @classmethod
    def evenly(cls, share: float, seed: int = 0, **settings: float) -> "Chaos":
        """Chaos in which a `share` of all responses fails, with every kind of trouble equally often."""
        return cls(dict.fromkeys(TROUBLES, share / len(TROUBLES)), seed=seed, **settings)  # type: ignore[arg-type]

    def draw_trouble(self, request_digest: str) -> tuple[Trouble | None, random.Random]:
        """Draw the fault of the next response to a request (None: a good response); also return a random generator for
        the rest of the response.
        """
        self._received[request_digest] += 1
        rng = random.Random(derive_seed(self.seed, request_digest, self._received[request_digest]))
        draw = rng.random()
        for trouble, rate in self.rates.items():
            if draw < rate:
                return trouble, rng
            draw -= rate
        return None, rng
