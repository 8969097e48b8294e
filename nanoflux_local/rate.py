"""Measures the rate at which a task progresses, and formats the rate with the remaining time."""

import time
from collections.abc import Callable

STEADY_S = 2.0
"""Seconds at the start of a task without a reported rate, because a slow start would distort it."""
MIN_RATE = 0.5
"""The lowest rate, in units per second, that is shown as a rate; for a lower rate, the time per unit is shown."""
AMOUNT_UNITS = ("MiB",)
"""Units of measurement, as opposed to countable things. Their rate is never shown as a time per unit, because the time
for one MiB says little.
"""


class RateMeter:
    """The mean rate of a task. A smaller count or a different total starts a new task."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start_s = 0.0
        self._done_at_start = 0
        self._done = self._total = -1  # until the first report

    def report(self, done: int, total: int) -> float | None:
        """The rate per second since the first report of this task; None if it is too early for a rate."""
        now_s = self._clock()
        is_new_task = done < self._done or total != self._total or self._done < 0
        if is_new_task:
            self._start_s, self._done_at_start, self._total = now_s, done, total
        self._done = done
        elapsed_s, done_since_start = now_s - self._start_s, done - self._done_at_start
        return done_since_start / elapsed_s if done_since_start and elapsed_s >= STEADY_S else None


def format_rate(rate_per_s: float | None, units_left: float, unit: str = "") -> str:
    """A rate in units per second and the time left, such as "1.2 steps/s, 40 s left" or "14 s each, 5 min left"; "" if
    the rate is None or 0.
    """
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
