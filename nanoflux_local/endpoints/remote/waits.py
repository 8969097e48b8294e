"""Waits: reports that a call waits for a server, why, and until when. Nobody shall wonder why a run stands still.

Many calls wait for one server at once, and pauses follow each other: one line in a while says it for all of them.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta

from nanoflux_local.redaction import redact

Report = Callable[[str], None]
LONG_S = 5.0
"""Seconds that a call waits, over all its pauses, before it is reported."""
AGAIN_S = 30.0
"""Seconds between two reports on one endpoint, unless it asks for a longer wait meanwhile."""


def log_wait(text: str) -> None:
    """Report a wait as a warning of the log, which goes to stderr."""
    logging.getLogger(__name__).warning("%s", text)


REPORT: ContextVar[Report] = ContextVar("report", default=log_wait)


@contextmanager
def reporting_waits(report: Report) -> Iterator[None]:
    """Waits inside, also in the tasks that are started there, are reported to `report`, a line each. Endpoints that
    share a server wait alike, and say so once.
    """
    reported: set[str] = set()

    def report_once(line: str) -> None:
        if line not in reported:
            reported.add(line)
            report(line)

    token = REPORT.set(report_once)
    try:
        yield
    finally:
        REPORT.reset(token)


class Waits:
    """The waits for one endpoint's servers."""

    def __init__(self) -> None:
        self._reported_until = 0.0

    def note(self, url: str, why: str, seconds: float, waited_s: float) -> None:
        """A call is about to wait `seconds` for the server at `url`, and has then waited `waited_s` in all."""
        now = time.monotonic()
        if waited_s < LONG_S or now + seconds <= self._reported_until:
            return
        self._reported_until = now + max(seconds, AGAIN_S)
        REPORT.get()(redact(f"{url} {why}; the next request goes out at {local_time(seconds)}"))


def local_time(seconds: float) -> str:
    """The local time in so many seconds, with the date unless it is today's."""
    now = datetime.now().astimezone()
    then = now + timedelta(seconds=seconds)
    return then.strftime("%H:%M:%S" if then.date() == now.date() else "%Y-%m-%d %H:%M")
