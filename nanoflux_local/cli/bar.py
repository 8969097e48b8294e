"""Progress on stderr: the amount done, the rate, and the time left."""

import sys
import time
from collections.abc import Callable

import click

from nanoflux_local.cli.common import sanitize
from nanoflux_local.rate import RateMeter, format_rate

MINUTE_S = 60.0


class Bar:
    """Shows progress: on a terminal as a bar; elsewhere as one line for every tenth of the total, and a further line
    if none was printed for `line_interval_s` seconds. `unit` is the unit of the numbers ("steps", "MiB"), or "" if the
    note names it.
    """

    WIDTH = 24
    """Width of a full bar, in characters."""

    def __init__(
        self, label: str, unit: str = "", line_interval_s: float = MINUTE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = label
        self._unit = unit
        self._line_interval_s = line_interval_s
        self._clock = clock
        self._is_terminal = sys.stderr.isatty()
        self._meter = RateMeter(clock)
        self._last_tenth = -1
        self._last_line_s = 0.0

    def show(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total` with a note, the rate, and the time left."""
        share = min(1.0, done / total) if total else 1.0
        rate = self._meter.report(done, total)
        parts = (self._unit, note, format_rate(rate, total - done, self._unit))
        text = ", ".join(part for part in parts if part)
        if self._is_terminal:
            filled = "█" * int(share * self.WIDTH)
            line = f"\r{self._label} {filled:░<{self.WIDTH}} {done}/{total} {sanitize(text)}".rstrip()
            click.echo(f"{line}\x1b[K", err=True, nl=False)
            return
        tenth = int(share * 10)
        silent_s = self._clock() - self._last_line_s
        if tenth != self._last_tenth or silent_s >= self._line_interval_s:
            # `!=` rather than `>`, since a bar that shows several steps starts again from 0 at each step.
            self._last_tenth = tenth
            self._last_line_s = self._clock()
            click.echo(f"{self._label} {done}/{total} {sanitize(text)}".rstrip(), err=True)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        click.echo(f"\r\x1b[K{sanitize(text)}" if self._is_terminal else sanitize(text), err=True)

    def close(self) -> None:
        """End the line of the bar."""
        if self._is_terminal:
            click.echo(err=True)
