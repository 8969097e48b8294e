"""Faults: one classifier for what goes wrong between a client and its server, and who is told of it.

Both SDKs share their exceptions' names and shapes, so one reading serves for all protocols. Owns no decision about
what to do next: that is `retries`.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any

from nanoflux_local.records import ChatReply, Fault, FaultKind

BUSY = (429, 529)
"""Statuses of a server that is well and has no room: too many requests, overloaded."""
AGAIN = (408, 409, 425)
"""Statuses below 500 that ask to be tried again."""
HOPELESS = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Codes that come with a 429 and no waiting mends."""
MOST_RAW = 4096
"""Characters of an unusable reply that are kept."""

Told = Callable[[Fault], None]


def _log(fault: Fault) -> None:
    logging.getLogger(__name__).warning("%s: %s: %s", fault.model, fault.kind, fault.told)


TOLD: ContextVar[Told] = ContextVar("told", default=_log)
"""Who is told of a fault. What it raises ends the call, which is how a budget stops the next attempt."""


@contextmanager
def telling(told: Told) -> Iterator[None]:
    """Faults met inside, also in the tasks that are started there, are told to `told`."""
    token = TOLD.set(told)
    try:
        yield
    finally:
        TOLD.reset(token)


class GarbledError(Exception):
    """A reply came and is none: not JSON, not of the protocol's shape, or cut off. `raw` is what came."""

    def __init__(self, why: str, raw: str = "") -> None:
        super().__init__(why)
        self.raw = raw


class EmptyError(Exception):
    """A reply of no text that says it is whole."""

    def __init__(self, reply: ChatReply) -> None:
        super().__init__("a reply without text")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Seen:
    """What one failed attempt looks like. `kind` is None for what asking again cannot mend."""

    kind: FaultKind | None
    told: str
    raw: str = ""
    retry_after_s: float | None = None
    reply: ChatReply | None = None

    @property
    def gone(self) -> bool:
        """Whether the server itself is in doubt, rather than its reply."""
        return self.kind in ("unreachable", "reset", "timeout")


def seen(error: Exception, sdk: ModuleType, limit_s: float) -> Seen | None:
    """The fault in an exception of an attempt, or None for an exception that is no fault but a defect of ours."""
    if isinstance(error, EmptyError):
        return Seen("empty", "answered with no text", reply=error.reply)
    if isinstance(error, GarbledError):
        return Seen("garbled", f"sent no usable reply: {error}", error.raw)
    if isinstance(error, TimeoutError):
        return Seen("timeout", f"did not answer within {limit_s:.3g} s")
    if isinstance(error, sdk.APIResponseValidationError):
        return Seen("garbled", f"sent no usable reply: {error}")
    if isinstance(error, sdk.APIStatusError):
        return _by_status(error)
    if isinstance(error, sdk.APIConnectionError):
        return _by_cause(error, limit_s)
    if isinstance(error, (ValueError, sdk.APIError)):
        return Seen("garbled", f"sent no usable reply: {error}")
    return None


def _by_cause(error: Any, limit_s: float) -> Seen:
    import httpx2

    cause = error.__cause__
    if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol)):
        return Seen("unreachable", f"does not answer: {cause}")
    if isinstance(cause, httpx2.TimeoutException):
        return Seen("timeout", f"did not answer within {limit_s:.3g} s")
    return Seen("reset", f"broke off: {cause or error}")


def _by_status(error: Any) -> Seen:
    status: int = error.status_code
    told = f"answered {status}: {str(getattr(error, 'message', error))[:300]}"
    wait = retry_after(error.response.headers)
    if status in BUSY:
        hopeless = str(getattr(error, "code", "")) in HOPELESS
        return Seen(None if hopeless else "rate_limited", told, retry_after_s=wait)
    if status >= 500 or status in AGAIN:
        return Seen("server_error", told, retry_after_s=wait)
    return Seen(None, told)


def retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to be left alone for, in any of the three ways to say so."""
    import time

    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / scale
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError):
                continue
        if 0 <= seconds < float("inf"):  # also refuses what is no number
            return seconds
    return None
