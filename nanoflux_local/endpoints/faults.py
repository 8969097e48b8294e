"""Classifies failed requests to a server as faults, and reports the faults to a listener.

The SDKs' exceptions have the same names and attributes, so one classification serves all protocols. The module
`remote.retries` decides whether a failed request is sent again.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from nanoflux_local.endpoints.remote.error_body import ErrorBody, read_error
from nanoflux_local.records import ChatReply, Fault, FaultKind
from nanoflux_local.redaction import redact

BUSY_STATUSES = (429, 529)
"""Statuses of a healthy server that is at its limit: 429 (too many requests) and 529 (overloaded)."""
RETRYABLE_STATUSES = (408, 409, 425)
"""Statuses below 500 after which a retry may succeed."""
NOT_FOUND_STATUSES = (404, 405)
"""Statuses of a wrong path or an unknown model."""
REDIRECT_STATUSES = range(300, 400)
FIX_BY_STATUS = {
    401: "check the key that the endpoint's key_env or key_file names",
    402: "add credit at the provider",
    403: "check the permissions of the endpoint's key at the provider",
    429: "add credit at the provider",
}
"""What the user can do about refusals that a retry cannot resolve, by status."""
PERMANENT_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""Error codes of 429 responses that a retry cannot resolve."""
ROUTES = ("/chat/completions", "/responses", "/messages", "/embeddings")
"""The paths that the SDKs append to an endpoint's url."""
MAX_RAW_CHARS = 4096
"""The maximum number of characters of an unusable reply that are recorded."""
MAX_LOCATION_CHARS = 300
"""The maximum number of characters of a redirect's address that are read."""

FaultListener = Callable[[Fault], None]


def _log(fault: Fault) -> None:
    """The default listener: log a fault as a warning."""
    logging.getLogger(__name__).warning("%s: %s: %s", fault.model, fault.kind, fault.message)


FAULT_LISTENER: ContextVar[FaultListener] = ContextVar("fault_listener", default=_log)
"""The listener to which faults are reported. If the listener raises an error, the call ends without a retry;
this is how an exhausted budget prevents retries.
"""


@contextmanager
def reporting_faults(listener: FaultListener) -> Iterator[None]:
    """Report faults to `listener` inside the block, and in tasks that are started there."""
    token = FAULT_LISTENER.set(listener)
    try:
        yield
    finally:
        FAULT_LISTENER.reset(token)


def report_and_log(fault: Fault) -> None:
    """Report a fault to the listener, and also log it, so that the user sees it immediately."""
    listener = FAULT_LISTENER.get()
    listener(fault)
    if listener is not _log:
        _log(fault)


class GarbledError(Exception):
    """An unusable reply: not JSON, not in the protocol's format, or cut off. `raw` is the reply as received."""

    def __init__(self, reason: str, raw: str = "") -> None:
        super().__init__(reason)
        self.raw = raw


class ResponseBodyError(Exception):
    """An error that arrived with status 200, so that only the body of the response shows it."""

    def __init__(self, body: ErrorBody) -> None:
        super().__init__(body.message)
        self.body = body


class NoAnswerError(Exception):
    """A complete reply that is not an answer, such as a tool call. A retry would not produce an answer either."""


class WebPageError(Exception):
    """A web page with status 200 instead of a reply: a sign-in page, or a page of another service at the url."""

    def __init__(self, title: str, url: str) -> None:
        super().__init__(title)
        self.url = url


class EmptyError(Exception):
    """A complete reply without text."""

    def __init__(self, reply: ChatReply) -> None:
        super().__init__("a reply without text")
        self.reply = reply


@dataclass(frozen=True, slots=True)
class ClassifiedFault:
    """The fault of one attempt to send a request. `kind` is None if a retry cannot succeed.

    `message` completes the sentence "the server …", and `raw` is an unusable reply as received. `retry_after_s` is the
    pause that the server asks for, and `reply` is a reply without text. `status` is the HTTP status of the response, or
    the status that its body states (0: none). `codes` are the server's error codes, and `server_message` is its
    message. `fix` says what the user should do ("" if that depends on more than the fault), and `setting` is the
    endpoint's setting to which the fix applies ("url", "model", or "" for none).
    """

    kind: FaultKind | None
    message: str
    raw: str = ""
    retry_after_s: float | None = None
    reply: ChatReply | None = None
    status: int = 0
    codes: tuple[str, ...] = ()
    server_message: str = ""
    fix: str = ""
    setting: str = ""

    @property
    def may_be_down(self) -> bool:
        """Whether the server itself may be down."""
        return self.kind in ("unreachable", "reset", "timeout")


def classify_error(error: Exception, sdk: ModuleType, timeout_s: float) -> ClassifiedFault | None:
    """Classify the exception of an attempt whose timeout was `timeout_s`; None if the exception shows a bug in this
    program.
    """
    if isinstance(error, EmptyError):
        return ClassifiedFault("empty", "sent a reply without text", reply=error.reply)
    if isinstance(error, NoAnswerError):
        return ClassifiedFault(None, f"sent no answer: {error}", server_message=str(error))
    if isinstance(error, WebPageError):
        fix = _suggest_address_or_model(error.url)
        return ClassifiedFault(None, f"answered with a web page: {error}", status=200, fix=fix, setting="url")
    if isinstance(error, ResponseBodyError):
        return _classify_status(error.body.status, error.body, None)
    if isinstance(error, GarbledError):
        return ClassifiedFault("garbled", f"sent no usable reply: {error}", error.raw)
    if isinstance(error, TimeoutError):
        return ClassifiedFault("timeout", f"did not answer within {timeout_s:.3g} s")
    if isinstance(error, sdk.APIResponseValidationError):
        return ClassifiedFault("garbled", f"sent no usable reply: {error}")
    if isinstance(error, sdk.APIStatusError):
        return _classify_response(error)
    if isinstance(error, sdk.APIConnectionError):
        return _classify_connection(error, timeout_s)
    if isinstance(error, (ValueError, sdk.APIError)):
        return ClassifiedFault("garbled", f"sent no usable reply: {error}")
    return None


def _classify_connection(error: Any, timeout_s: float) -> ClassifiedFault:
    """Classify a request without a response by the cause that the HTTP client states."""
    import httpx2

    cause = error.__cause__
    unreachable_errors = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol, httpx2.ProxyError)
    if isinstance(cause, unreachable_errors):
        return ClassifiedFault("unreachable", f"does not answer: {cause}")
    if isinstance(cause, httpx2.TimeoutException):
        return ClassifiedFault("timeout", f"did not answer within {timeout_s:.3g} s")
    if isinstance(cause, httpx2.DecodingError):
        return ClassifiedFault("garbled", f"sent no usable reply: {cause}")
    return ClassifiedFault("reset", f"closed the connection: {cause or error}")


def _classify_response(error: Any) -> ClassifiedFault:
    """Classify an error response, and add a fix for a redirect and for a wrong address."""
    response = error.response
    fault = _classify_status(error.status_code, read_error(response.content), read_retry_after(response.headers))
    if fault.status in REDIRECT_STATUSES:
        location = urlsplit(str(response.headers.get("location", ""))[:MAX_LOCATION_CHARS])
        new_url = redact(location._replace(query="", fragment="").geturl())
        message = f"answered {fault.status}: a redirect to {new_url}"
        fix = "set the server's new address as the endpoint's url: redirects are not followed"
        return replace(fault, message=message, fix=fix, setting="url")
    if fault.status in NOT_FOUND_STATUSES:
        setting = "model" if _names_model(fault.server_message) else "url"
        fix = _suggest_address_or_model(str(response.request.url), fault.server_message)
        return replace(fault, fix=fix, setting=setting)
    return fault


def _classify_status(status: int, body: ErrorBody, retry_after_s: float | None) -> ClassifiedFault:
    """Classify an error response by its HTTP status or the status in its body."""
    message = f"answered {status}: {body.message or 'no reason stated'}"
    kind: FaultKind | None = None
    if status in BUSY_STATUSES:
        kind = None if any(code in PERMANENT_CODES for code in body.codes) else "rate_limited"
    elif status >= 500 or status in RETRYABLE_STATUSES:
        kind = "server_error"
    fix = FIX_BY_STATUS.get(status, "") if kind is None else ""
    return ClassifiedFault(
        kind,
        message,
        retry_after_s=retry_after_s,
        status=status,
        codes=body.codes,
        server_message=body.message,
        fix=fix,
    )


def _names_model(server_message: str) -> bool:
    """Whether a server's message says that the model, rather than the path, is missing."""
    return "model" in server_message.lower()


def _suggest_address_or_model(requested_url: str, server_message: str = "") -> str:
    """The fix for a 404, a 405 or a web page: usually the url has a wrong path, and sometimes the model's name is
    wrong.
    """
    if _names_model(server_message):
        return "correct the endpoint's model: the server does not have it"
    parts = urlsplit(requested_url)
    if re.search(r"/v\d", parts.path):
        return f"correct the endpoint's url: no model answers at {parts.path}"
    route = next((route for route in ROUTES if parts.path.endswith(route)), "")
    base_url = parts._replace(path=parts.path.removesuffix(route), query="", fragment="").geturl()
    return f'correct the endpoint\'s url: no model answers at {parts.path} (did you mean url = "{base_url}/v1"?)'


def read_retry_after(headers: Any) -> float | None:
    """The seconds to wait before the next request; None if no header states them. Headers state the time in
    milliseconds, in seconds, or as a date.
    """
    for name, units_per_s in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        seconds = _parse_delay(headers.get(name), units_per_s)
        if seconds is not None and 0 <= seconds < float("inf"):  # the comparison is false for NaN
            return seconds
    return None


def _parse_delay(value: str | None, units_per_s: float) -> float | None:
    """The delay in seconds that a header states as a number or as a date; None if it states neither."""
    if value is None:
        return None
    try:
        return float(value) / units_per_s
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
