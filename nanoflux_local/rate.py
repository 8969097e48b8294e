"""The rate at which a task progresses, and the time that the rest of the task needs at this rate."""

import time
from collections.abc import Callable

STEADY_S = 2.0
"""No rate is reported during the first seconds of a task, because a slow start would distort it."""
MIN_RATE = 0.5
"""Below this rate per second, the time per unit is shown instead."""
AMOUNT_UNITS = ("MiB",)
"""Units of measurement, as opposed to countable things. The time for one of them would say little, so none is shown."""


class RateMeter:
    """The mean rate of a task. A smaller count or a different total starts a new task."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = 0.0
        self._done_at_start = 0
        self._done = self._total = -1

    def report(self, done: int, total: int) -> float | None:
        """The rate per second since the first report of this task; None if it is too early for a rate."""
        now_s = self._clock()
        if done < self._done or total != self._total or self._done < 0:
            self._start_s, self._done_at_start, self._total = now_s, done, total
        self._done = done
        elapsed_s, done_since_start = now_s - self._start_s, done - self._done_at_start
        return done_since_start / elapsed_s if done_since_start and elapsed_s >= STEADY_S else None


def format_rate(rate_per_s: float | None, units_left: float, unit: str = "") -> str:
    """A rate and the time left: "1.2 steps/s, 40 s left", "14 s each, 5 min left"; "" without a rate."""
    if not rate_per_s:
        return ""
    if rate_per_s < MIN_RATE and unit not in AMOUNT_UNITS:
        rate_text = f"{format_seconds(1 / rate_per_s)} each"
    else:
        rate_text = f"{rate_per_s:,.1f} {unit}/s" if unit else f"{rate_per_s:,.1f}/s"
    return f"{rate_text}, {format_seconds(units_left / rate_per_s)} left" if units_left > 0 else rate_text


def format_seconds(seconds: float) -> str:
    """Seconds in a readable unit: 45 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
