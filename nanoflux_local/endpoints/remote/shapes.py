"""Reads replies of many shapes: wrapped JSON, content as text or as a list of parts, and every finish reason.

Each protocol defines one shape, but servers and gateways send many. This module reads every shape that it can. It
raises a ResponseBodyError for an error that arrives with status 200, and a ValueError for all other unreadable bodies.
The client of each protocol knows the protocol's keys.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nanoflux_local.endpoints.faults import NoAnswerError, ResponseBodyError, WebPageError
from nanoflux_local.endpoints.remote.error_body import ErrorBody, parse_error, read_error
from nanoflux_local.records import Finish

MAX_COUNT = 10**9
"""A larger number cannot be the token count of one reply."""
MAX_DIGITS = 1000
"""Integers with this many digits or more are read as None: Python refuses to convert those with thousands of digits."""
NO_TEXT = "a response without text"
"""The error message for a body without a text."""
_TRUNCATED = re.compile(r"length|max|limit|window|truncat")
_REFUSED = re.compile(r"filter|safety|refus|block|recitation|prohibited|guardrail|spii|sensitive|moderation|policy")
_FAILED = re.compile(r"error|abort|cancel|insufficient")
_TOOL = re.compile(r"tool|function")
_REASONING_KINDS = ("thinking", "reasoning", "reasoning_text", "summary_text")
"""The types of message parts that contain reasoning."""
_INNER_KEYS = ("text", "thinking", "reasoning", "summary", "content")
"""The keys under which a part contains a text or further parts."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a message: its text (None if it has none), its reasoning, and the provider's refusal."""

    text: str | None = None
    reasoning: str = ""
    refusal: str = ""


def load_json(response: Any) -> Any:
    """Read the JSON of an HTTP response. The body may start with a byte order mark or keep-alive lines, or may be a
    stream of server-sent events.

    Raises:
        WebPageError: the response is a web page.
        ValueError: the response is not JSON.
    """
    try:
        text = response.content.decode(response.charset_encoding or "utf-8").removeprefix("\ufeff").lstrip()
    except LookupError:
        raise ValueError(f"text in the unknown encoding {response.charset_encoding!r}") from None
    while text.startswith(":"):  # a comment of an event stream, sent to keep the connection open
        text = text.partition("\n")[2].lstrip()
    if text.startswith(("data:", "event:")):
        return _join_events(list(_parse_events(text)), is_complete="[DONE]" in text)
    if text.startswith("<"):
        title = read_error(response.content).message
        if response.headers.get("content-type", "").startswith("text/html"):
            raise WebPageError(title, str(response.request.url))
        raise ValueError(f"a web page: {title}")
    return _parse_json(text)


def _parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_int=_parse_integer)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def _parse_integer(digits: str) -> int | None:
    """The integer, or None if it has `MAX_DIGITS` digits or more."""
    return int(digits) if len(digits) < MAX_DIGITS else None


def _parse_events(text: str) -> Iterator[dict[str, Any]]:
    """Yield the data of each server-sent event that is a JSON object."""
    for line in text.splitlines():
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if data and data != "[DONE]":
            event = _parse_json(data)
            if isinstance(event, dict):
                yield event


def _join_events(events: list[dict[str, Any]], is_complete: bool) -> Any:
    """Join the events of a stream into one reply. Some gateways send a stream although the request asks for none.

    Raises:
        ValueError: the stream has no reply, or was cut off.
    """
    responses = [event["response"] for event in events if isinstance(event.get("response"), dict)]
    errors = [event for event in events if event.get("error")]
    last_response = responses[-1] if responses else None
    if errors and not last_response:
        return errors[0]
    if last_response is not None:
        return last_response
    first_choices = [value_at(event, "choices", 0) for event in events]
    choices = [choice for choice in first_choices if isinstance(choice, dict)]
    if not choices:
        raise ValueError("a stream of events without a reply")
    message = {key: _join_deltas(choices, key) for key in ("content", "reasoning", "reasoning_content")}
    finish_reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    if not finish_reasons and not is_complete:
        raise ValueError("a stream with no end")
    finish_reason = finish_reasons[-1] if finish_reasons else None
    usages = [event["usage"] for event in events if event.get("usage")]
    choice = {"message": message, "finish_reason": finish_reason}
    return {"choices": [choice], "usage": usages[-1] if usages else None}


def _join_deltas(choices: list[dict[str, Any]], key: str) -> str:
    """The text under `key`, joined from the deltas of a stream."""
    parts = [value_at(choice, "delta", key) for choice in choices]
    return "".join(part for part in parts if isinstance(part, str))


def check_error(body: Any, key: str) -> None:
    """Check that the body of a response states no error if it lacks `key`, under which the protocol sends the reply.

    Raises:
        ResponseBodyError: the body states an error.
    """
    if isinstance(body, dict) and not body.get(key):
        error = parse_error(body)
        if error.message:
            raise ResponseBodyError(error)


def read_content(content: Any) -> Content:
    """Read the content of a message: a text, a list of parts, or nothing.

    Raises:
        ValueError: the content is something else.
    """
    if content is None or isinstance(content, str):
        return Content(content)
    if not isinstance(content, list) or not all(isinstance(part, (str, dict)) for part in content):
        raise ValueError(NO_TEXT)
    texts, reasoning_texts, refusals = [], [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else "text"
        if kind == "refusal":
            refusals += _collect_texts(part.get("refusal"))
        elif kind in _REASONING_KINDS:
            reasoning_texts += _collect_texts(part)
        elif isinstance(part, str) or isinstance(part.get("text"), str):
            texts.append(part if isinstance(part, str) else part["text"])
    return Content("".join(texts) if texts else None, "\n".join(reasoning_texts), "".join(refusals))


def _collect_texts(value: Any) -> list[str]:
    """The texts inside a part, which may contain further parts."""
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, list):
        return [text for entry in value for text in _collect_texts(entry)]
    if isinstance(value, dict):
        for key in _INNER_KEYS:
            texts = _collect_texts(value.get(key))
            if texts:
                return texts
    return []


def read_finish(reason: Any) -> Finish:
    """The finish reason of a reply, from the server's word for it; an unknown word is read as "stop".

    Raises:
        ResponseBodyError: the server failed during the reply.
    """
    word = reason.lower() if isinstance(reason, str) else ""
    if _TRUNCATED.search(word):
        return "length"
    if _REFUSED.search(word):
        return "refused"
    if _FAILED.search(word) and not _TOOL.search(word):
        raise ResponseBodyError(ErrorBody(f"the reply ended with {reason[:100]!r}", ("server_error",)))
    return "stop"


def check_tool_call(reason: Any, *calls: Any) -> None:
    """Check that a reply without text does not call a tool. `reason` is its finish reason, and each of `calls` is a
    tool call, a list of tool calls, or None.

    Raises:
        NoAnswerError: the reply calls a tool.
    """
    tool_names = [name for call_or_calls in calls for name in _list_tool_names(call_or_calls)]
    tool_name = tool_names[0] if tool_names else ""
    if tool_name or any(calls) or (isinstance(reason, str) and _TOOL.search(reason.lower())):
        tool_phrase = f"the tool {tool_name[:100]!r}" if tool_name else "a tool"
        raise NoAnswerError(f"the reply calls {tool_phrase} and has no text, though no tool was offered")


def _list_tool_names(call_or_calls: Any) -> Iterator[str]:
    """Yield the names of the tools that a tool call, or a list of tool calls, names."""
    calls = call_or_calls if isinstance(call_or_calls, list) else [call_or_calls]
    for call in calls:
        name = value_at(call, "function", "name") or value_at(call, "name")
        if isinstance(name, str):
            yield name


def value_at(value: Any, *path: str | int) -> Any:
    """The value at a path in JSON of any shape; None if the path does not exist."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def read_token_count(value: Any, *path: str | int) -> int:
    """The token count at a path; 0 if there is none. Some servers send the count as a float or a string."""
    number = value_at(value, *path)
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 12:
        number = int(number)
    is_usable = isinstance(number, (int, float)) and 0 < number <= MAX_COUNT
    return int(number) if is_usable else 0
