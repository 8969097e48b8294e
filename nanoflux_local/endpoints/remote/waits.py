"""Reports that a call waits for a server, why, and until when, so that the user sees why a run pauses.

Many calls can wait for the same server, and one pause can follow another, so one line at intervals covers all of them.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta

from nanoflux_local.redaction import redact

ReportLine = Callable[[str], None]
"""Shows one line about a wait to the user."""
MIN_REPORTED_S = 5.0
"""A call's wait is reported once the call has waited this many seconds in total."""
REPORT_INTERVAL_S = 30.0
"""A wait is not reported if it ends within this many seconds of the last report on its endpoint, or before the last
reported wait ends.
"""


def log_wait(text: str) -> None:
    """Report a wait as a warning in the log, which goes to stderr."""
    logging.getLogger(__name__).warning("%s", text)


REPORT: ContextVar[ReportLine] = ContextVar("report", default=log_wait)
"""The function to which the lines about waits are passed."""


@contextmanager
def reporting_waits(report: ReportLine) -> Iterator[None]:
    """Report waits inside the block, and in tasks that are started there, by calling `report` with one line for each
    wait. Equal lines of endpoints that share a server are reported only once.
    """
    reported_lines: set[str] = set()

    def report_once(line: str) -> None:
        if line not in reported_lines:
            reported_lines.add(line)
            report(line)

    token = REPORT.set(report_once)
    try:
        yield
    finally:
        REPORT.reset(token)


class Waits:
    """Reports the waits for one endpoint's servers, at intervals."""

    def __init__(self) -> None:
        self._reported_until = 0.0  # waits that end before this time of the monotonic clock are not reported

    def note(self, url: str, reason: str, seconds: float, waited_s: float) -> None:
        """Record that a call waits `seconds` for the server at `url`. After this wait, the call will have waited
        `waited_s` in total.
        """
        now = time.monotonic()
        if waited_s < MIN_REPORTED_S or now + seconds <= self._reported_until:
            return
        self._reported_until = now + max(seconds, REPORT_INTERVAL_S)
        REPORT.get()(redact(f"{url} {reason}; the next request is sent at {local_time(seconds)}"))


def local_time(seconds: float) -> str:
    """The local time `seconds` from now, with the date unless it is today."""
    now = datetime.now().astimezone()
    end = now + timedelta(seconds=seconds)
    return end.strftime("%H:%M:%S" if end.date() == now.date() else "%Y-%m-%d %H:%M")
