"""Reads error bodies of any shape: the provider's message, the error codes, and the parameters that the error names.

Servers and gateways wrap errors in different ways: `{"error": {"message": …}}` (OpenAI), `{"detail": [{"loc": …}]}`
(FastAPI), `{"message": {"detail": […]}}` (Mistral), a list of errors (Gemini), an upstream error as text inside the
gateway's error (OpenRouter), a web page (proxies), or plain text. `faults` classifies the errors.
"""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nanoflux_local.redaction import redact

MAX_MESSAGE_CHARS = 500
"""The number of characters to which a provider's message is shortened."""
MAX_BODY_BYTES = 100_000
"""The maximum number of bytes that are read from a body."""
MAX_DEPTH = 8
"""The maximum number of levels of nested JSON that are read."""
MAX_ENTRIES = 5
"""The maximum number of entries that are read from a list."""
MAX_LOCATION_PARTS = 8
"""The maximum number of keys that are read from the path to an invalid parameter."""
MAX_CODE_CHARS = 100
"""The number of characters of a code or a parameter's name that are read."""
MESSAGE_KEYS = (
    "message", "msg", "error", "detail", "errors", "error_message", "error_description", "Message", "title", "reason",
)  # fmt: skip
"""The keys of an error's message; the first key with a message is used."""
CODE_KEYS = ("code", "type", "status", "error_code", "error_type", "__type")
"""The keys of error codes."""
NESTED_KEYS = ("error", "errors", "message", "detail", "innererror", "metadata")
"""The keys under which one error contains another."""
STATUS_BY_CODE = (
    ("quota", 429),
    ("rate_limit", 429),
    ("too_many", 429),
    ("resource_exhausted", 429),
    ("overload", 529),
    ("billing", 402),
    ("authentication", 401),
    ("api_key", 401),
    ("permission", 403),
    ("not_found", 404),
    ("invalid", 400),
    ("content_", 400),
    ("timeout", 504),
)
"""The HTTP status that an error code implies if the error arrives with status 200. The first entry whose text occurs in
the code is used.
"""
UNKNOWN_STATUS = 500
"""The status of an error whose codes imply none."""
_TITLE = re.compile(r"<(title|h1)[^>]*>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error's message, its codes, and the names of the parameters that it is about (`params`). Codes and names are
    in lower case; those of inner errors come first.
    """

    message: str
    codes: tuple[str, ...] = ()
    params: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        """The HTTP status that the codes state or imply; 500 if they imply none."""
        for code in self.codes:
            if code.isascii() and code.isdigit() and len(code) == 3 and 400 <= int(code) < 600:
                return int(code)
        for code in self.codes:
            for code_part, status in STATUS_BY_CODE:
                if code_part in code:
                    return status
        return UNKNOWN_STATUS


def read_error(content: bytes) -> ErrorBody:
    """Read the error in the body of a response."""
    text = content[:MAX_BODY_BYTES].decode("utf-8", "replace").strip()
    try:
        return parse_error(json.loads(text))
    except (ValueError, RecursionError):
        return ErrorBody(_shorten(_read_page_title(text) if text.startswith("<") else text))


def parse_error(body: Any) -> ErrorBody:
    """Read the error in JSON of any shape."""
    distinct_messages = dict.fromkeys(_find_messages(body, 0))
    distinct_codes = dict.fromkeys(_find_codes(body, 0))
    distinct_params = dict.fromkeys(_find_params(body, 0))
    return ErrorBody(_shorten("; ".join(distinct_messages)), tuple(distinct_codes), tuple(distinct_params))


def _find_messages(value: Any, depth: int) -> Iterator[str]:
    """Yield the messages of an error, and then those of an upstream error that a gateway adds as metadata."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, str):
        yield from _read_text(value.strip(), depth)
    elif isinstance(value, list):
        for entry in value[:MAX_ENTRIES]:
            yield from _find_messages(entry, depth + 1)
    elif isinstance(value, dict) and isinstance(value.get("loc"), list):  # a validation error of FastAPI
        location = ".".join(map(str, value["loc"][:MAX_LOCATION_PARTS]))
        yield f"{location}: {value.get('msg', '')}"
    elif isinstance(value, dict):
        for key in MESSAGE_KEYS:
            messages = list(_find_messages(value.get(key), depth + 1))
            if messages:
                yield from messages
                break
        metadata = value.get("metadata")
        if isinstance(metadata, dict):
            yield from _find_messages(metadata.get("raw"), depth + 1)


def _read_text(text: str, depth: int) -> Iterator[str]:
    """Yield the text or, if it is an upstream error in JSON that a gateway passes on, the messages in that error."""
    if text.startswith(("{", "[")):
        try:
            yield from _find_messages(json.loads(text), depth + 1)
            return
        except (ValueError, RecursionError):
            pass
    if text:
        yield text


def _walk_objects(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of an error, innermost first, since inner objects are more specific."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, list):
        for entry in value[:MAX_ENTRIES]:
            yield from _walk_objects(entry, depth + 1)
    elif isinstance(value, dict):
        for key in NESTED_KEYS:
            yield from _walk_objects(value.get(key), depth + 1)
        yield value


def _find_codes(value: Any, depth: int) -> Iterator[str]:
    """Yield the error codes in lower case, innermost first."""
    for error_object in _walk_objects(value, depth):
        for key in CODE_KEYS:
            code = error_object.get(key)
            if isinstance(code, str) and code:
                yield code[:MAX_CODE_CHARS].lower()
            elif isinstance(code, int) and not isinstance(code, bool):
                yield str(code) if abs(code) < 10**9 else "?"


def _find_params(value: Any, depth: int) -> Iterator[str]:
    """Yield the names of the parameters that an error is about, in lower case, innermost first."""
    for error_object in _walk_objects(value, depth):
        location = error_object.get("loc")  # FastAPI names the parameter in `loc`, other servers in `param`
        names = location if isinstance(location, list) else [error_object.get("param")]
        for name in names:
            if isinstance(name, str) and name:
                yield name.lower()[:MAX_CODE_CHARS]


def _read_page_title(text: str) -> str:
    """The title or heading of a web page; its text if it has neither."""
    title_match = _TITLE.search(text)
    return html.unescape(_TAG.sub(" ", title_match[2] if title_match else text))


def _shorten(message: str) -> str:
    """Remove secrets, then shorten the message: shortening first could leave half a key, which would not be recognised
    as a secret.
    """
    message = " ".join(redact(message).split())
    return message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]}…"
