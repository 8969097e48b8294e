"""Chaos: which of a fake server's answers go wrong, and how. Decided by a seed, the request and how often it came.

So the same faults meet the same requests in every run, in whatever order they arrive.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

from nanoflux_local.records import derive_seed

Trouble = Literal["rate_limited", "server_error", "reset", "stall", "garbled", "empty"]
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)
"""What a client sees as a fault; "stall" is the one that it calls a timeout."""


@dataclass(slots=True)
class Chaos:
    """`rates` are shares of all answers; `thinking` is the share of good ones with a reasoning block before the text.

    A stalled answer comes after `stall_s`, which is too late for a client that has given up.
    """

    rates: dict[Trouble, float] = field(default_factory=dict)
    thinking: float = 0.0
    seed: int = 0
    stall_s: float = 60.0
    retry_after_s: float = 0.05
    done: Counter[str] = field(default_factory=Counter)
    _asked: Counter[str] = field(default_factory=Counter)

    @classmethod
    def evenly(cls, share: float, seed: int = 0, **more: float) -> "Chaos":
        """Every kind of trouble equally often, `share` of all answers in sum."""
        return cls(dict.fromkeys(TROUBLES, share / len(TROUBLES)), seed=seed, **more)  # type: ignore[arg-type]

    def strike(self, request: str) -> tuple[Trouble | None, random.Random]:
        """What happens to this answer, and the generator for how."""
        self._asked[request] += 1
        rng = random.Random(derive_seed(self.seed, request, self._asked[request]))
        drawn = rng.random()
        for trouble, rate in self.rates.items():
            if drawn < rate:
                return trouble, rng
            drawn -= rate
        return None, rng
