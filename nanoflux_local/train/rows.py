"""Reads and writes files of training rows: JSON Lines in one of three shapes that other training tools also use.

A row in any other shape is an error that names the file and the line. Rows that can be read but not trained on (an
empty answer, roles out of order, a lone surrogate) are reported later, by `audit`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from nanoflux_local.errors import DataError, NothingMatchedError
from nanoflux_local.files import write_atomically
from nanoflux_local.records import Message, Role
from nanoflux_local.text_files import EncodingError, read_utf8
from nanoflux_local.train.data import TrainingExample

PromptAndCompletion = tuple[tuple[Message, ...], str]
SHAPES = '{"messages": […]}, {"prompt": …, "completion": …} or {"instruction": …, "output": …}'
"""The shapes of a row, as error messages list them."""


def read_rows(path: Path) -> list[TrainingExample]:
    """The rows of a JSON Lines file. Blank lines are skipped. A row without an id is named after its line: "line 3".

    Raises:
        DataError: the file is missing or not UTF-8, or a line is not a row; the message names file and line.
        NothingMatchedError: the file has no rows.
    """
    try:
        lines = read_utf8(path).split("\n")  # not splitlines: JSON strings may hold U+2028
    except (OSError, EncodingError) as error:
        raise DataError(f"{path} cannot be read: {error}", "pass a UTF-8 file with one JSON object per line") from error
    rows = [_read_row(line, f"{path} line {number}", number) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise NothingMatchedError(f"{path} has no rows", f"write one JSON object per line: {SHAPES}")
    return rows


def write_rows(path: Path, rows: Sequence[TrainingExample]) -> None:
    """Write the rows so that `read_rows` returns equal rows. Raises OSError."""
    lines = (json.dumps(asdict(row)) for row in rows)  # ASCII, so that a lone surrogate is kept
    write_atomically(path, "".join(line + "\n" for line in lines).encode())


class _RepeatedKeyError(ValueError):
    """A JSON object has a key twice."""


def _read_row(line: str, location: str, line_number: int) -> TrainingExample:
    """Read a row of any shape. `location` names the file and the line in error messages."""
    try:
        row = json.loads(line, object_pairs_hook=_build_object)
    except _RepeatedKeyError as error:
        raise DataError(f"{location}: {error}", "remove one of the two values") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{location} is not JSON: {reason}", f"write one JSON object per line: {SHAPES}") from None
    if not isinstance(row, dict):
        raise DataError(f"{location} is not a JSON object", f"write one of {SHAPES}")
    _refuse_weight(row, location)
    row_id = f"line {line_number}" if row.get("id") is None else str(row["id"])
    for key, read_shape in (("messages", _read_chat), ("completion", _read_pair), ("output", _read_alpaca)):
        if key in row:
            prompt, completion = read_shape(row, location)
            return TrainingExample(prompt, completion, row_id)
    raise DataError(
        f"{location} has none of the known shapes: its keys are {', '.join(row) or 'none'}", f"write one of {SHAPES}"
    )


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary. Raises _RepeatedKeyError if a key appears twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated_key = next(key for key in keys if keys.count(key) > 1)
        raise _RepeatedKeyError(f"the key {repeated_key!r} appears twice")
    return values


def _refuse_weight(entry: dict[str, Any], location: str) -> None:
    """Raise DataError if a row or an answer has a weight other than 1. Other training tools multiply the loss by the
    weight, which this project cannot do.
    """
    weight = entry.get("weight")
    if weight is None or weight == 1:
        return
    reason = "excludes it from the loss" if weight == 0 else "is neither 0 nor 1"
    raise DataError(f'{location}: "weight": {json.dumps(weight)} {reason}', "remove the row, or set its weight to 1")


def _read_chat(row: dict[str, Any], location: str) -> PromptAndCompletion:
    """Read a dialogue. Its last answer is the completion, or "" if the dialogue ends with a question. Earlier answers
    are not trained on, so their weights do not matter.
    """
    messages = _read_messages(row["messages"], f'{location}, "messages"')
    if messages and messages[-1].role == "assistant":
        _refuse_weight(row["messages"][-1], location)
        return messages[:-1], messages[-1].content
    return messages, ""


def _read_pair(row: dict[str, Any], location: str) -> PromptAndCompletion:
    """Read a prompt and a completion: strings, or lists of messages as TRL writes them. A string prompt becomes one
    user message.
    """
    prompt, completion = row.get("prompt"), row["completion"]
    if isinstance(prompt, str):
        messages: tuple[Message, ...] = (Message("user", prompt),)
    else:
        messages = _read_messages(prompt, f'{location}, "prompt"')
    if isinstance(completion, list):
        answers = _read_messages(completion, f'{location}, "completion"')
        if [message.role for message in answers] != ["assistant"]:
            raise DataError(
                f'{location}: "completion" is not a single assistant message',
                "write a string, or one assistant message",
            )
        _refuse_weight(completion[0], location)
        completion = answers[0].content
    return messages, _read_string(completion, f'{location}, "completion"')


def _read_alpaca(row: dict[str, Any], location: str) -> PromptAndCompletion:
    """Read an Alpaca row: instruction and input become the last user message, `history` the messages before it."""
    instruction = _read_string(row.get("instruction"), f'{location}, "instruction"')
    context = _read_string(row.get("input") or "", f'{location}, "input"')
    system = _read_string(row.get("system") or "", f'{location}, "system"')
    history = _read_history(row.get("history") or [], f'{location}, "history"')
    messages = (*history, Message("user", f"{instruction}\n\n{context}" if context else instruction))
    if system:
        messages = (Message("system", system), *messages)
    return messages, _read_string(row["output"], f'{location}, "output"')


def _read_history(value: Any, location: str) -> tuple[Message, ...]:
    """Read the earlier messages as LLaMA-Factory writes them: a list of [question, answer] pairs."""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise DataError(f"{location} is not a list of pairs", 'write [["question", "answer"], …]')
    messages: list[Message] = []
    for question, answer in value:
        messages.append(Message("user", _read_string(question, location)))
        messages.append(Message("assistant", _read_string(answer, location)))
    return tuple(messages)


def _read_messages(value: Any, location: str) -> tuple[Message, ...]:
    """Read a list of messages with role and content. Raises DataError for any other value."""
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError(f"{location} is not a list of messages", 'write [{"role": "user", "content": "…"}, …]')
    return tuple(
        Message(
            cast(Role, _read_string(message.get("role"), f"{location}, role")),
            _read_string(message.get("content"), location),
        )
        for message in value
    )


def _read_string(value: Any, location: str) -> str:
    """`value` if it is a string; otherwise raises DataError."""
    if not isinstance(value, str):
        raise DataError(f"{location} is {type(value).__name__}, not a string", "write a JSON string")
    return value
