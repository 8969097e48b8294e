"""Removes secrets from messages, log records and tracebacks before they are shown or stored.

Secrets are the API keys that this process has read, the values of environment variables with names such as `API_KEY`,
and strings in the format of well-known providers' keys. The output of models is never changed.
"""

import logging
import os
import re
import sys
import traceback
from types import TracebackType
from typing import Any

MARK = "[secret]"
"""The text that replaces a secret."""
SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)\Z", re.IGNORECASE)
"""The end of the name of an environment variable whose value is a secret."""
MIN_CHARS = 8
"""The minimum length of a secret. Shorter values are probably words, and removing them would make messages
unreadable.
"""
SECRET_PATTERN = re.compile(
    r"\b(?:sk|pk|rk)-[\w-]{16,}"  # OpenAI, Anthropic and many others
    r"|\bhf_[A-Za-z0-9]{16,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bAKIA[A-Z0-9]{16}\b"
    r"|\bAIza[\w-]{30,}"
    r"|(?<=Bearer )[\w.~+/=-]{8,}"
    r"|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"  # user and password in a url
)
"""Strings in the format of well-known providers' keys, and credentials in headers and urls."""

_registered_secrets: set[str] = set()
"""The secrets that were passed to `register_secret`."""


def register_secret(secret: str) -> None:
    """Register a secret, which `redact` then removes from every later message."""
    if len(secret) >= MIN_CHARS:
        _registered_secrets.add(secret)


def redact(message: str) -> str:
    """The message with every secret replaced by `MARK`."""
    for secret in sorted(_registered_secrets | _environment_secrets(), key=len, reverse=True):
        message = message.replace(secret, MARK)
    return SECRET_PATTERN.sub(MARK, message)


def install() -> None:
    """Redact every later log record and uncaught exception of this process."""
    if logging.getLogRecordFactory() is not _make_record:
        logging.setLogRecordFactory(_make_record)
        sys.excepthook = _print_exception


def _environment_secrets() -> set[str]:
    """The values of environment variables whose names mark them as secrets."""
    return {
        value.strip()
        for name, value in os.environ.items()
        if SECRET_NAME.search(name) and len(value.strip()) >= MIN_CHARS
    }


def _make_record(*arguments: Any, **keywords: Any) -> logging.LogRecord:
    """A log record without secrets. Its arguments are merged into the message only if a secret was removed."""
    record = logging.LogRecord(*arguments, **keywords)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # a library's wrong format arguments, which logging itself reports
        return record
    redacted = redact(message)
    if redacted != message:
        record.msg, record.args = redacted, None
    if record.exc_info:
        record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip("\n")
    return record


def _print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
