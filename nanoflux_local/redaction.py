"""Secrets out of messages: the one place that knows which texts are secret, used wherever a message leaves this code.

A secret is a key that was read, the value of an environment variable whose name says so, or what looks like one of
the usual keys. Only messages go through here; what a model wrote is never changed.
"""

import logging
import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any

MARK = "[secret]"
SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)\Z", re.IGNORECASE)
SHORTEST = 8
"""Shorter values are words, or nobody's secret; taking them out would make messages unreadable."""
LOOKS_SECRET = re.compile(
    r"\b(?:sk|pk|rk)-[\w-]{16,}"  # OpenAI, Anthropic and many like them
    r"|\bhf_[A-Za-z0-9]{16,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bAKIA[A-Z0-9]{16}\b"
    r"|\bAIza[\w-]{30,}"
    r"|(?<=Bearer )[\w.~+/=-]{8,}"
    r"|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"
)

_known: set[str] = set()


def know(secret: str) -> None:
    """Take this text out of every message from now on."""
    if len(secret) >= SHORTEST:
        _known.add(secret)


def redact(message: str) -> str:
    """The message with a mark in the place of every secret."""
    for secret in sorted(_known | _of_environment(), key=len, reverse=True):
        message = message.replace(secret, MARK)
    return LOOKS_SECRET.sub(MARK, message)


def install() -> None:
    """From now on no log line and no traceback of this process shows a secret."""
    if logging.getLogRecordFactory() is not _record:
        logging.setLogRecordFactory(_record)
        sys.excepthook = _show


def _of_environment() -> set[str]:
    return {
        value.strip()
        for name, value in os.environ.items()
        if SECRET_NAME.search(name) and len(value.strip()) >= SHORTEST
    }


def _record(*arguments: Any, **named: Any) -> logging.LogRecord:
    """A log record without secrets; its arguments stay apart where there was none to take out."""
    record = logging.LogRecord(*arguments, **named)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # a library's own mistake, which logging reports in its own way
        return record
    clean = redact(message)
    if clean != message:
        record.msg, record.args = clean, None
    if record.exc_info:
        record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip("\n")
    return record


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
