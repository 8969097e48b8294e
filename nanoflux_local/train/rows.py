"""Training rows in a file: JSON lines in one of three shapes that other tools use too.

A row of another shape is an error that names the file and the line. Rows that can be read but not learnt from (an empty
answer, roles out of order, a lone surrogate) are reported later, by `audit`.
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

SHAPES = '{"messages": […]}, {"prompt": …, "completion": …} or {"instruction": …, "output": …}'


def read_rows(path: Path) -> list[TrainingExample]:
    """The rows of a JSON lines file; blank lines are skipped, and a row without an id is named by its line.

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


def _read_row(line: str, place: str, number: int) -> TrainingExample:
    try:
        row = json.loads(line, object_pairs_hook=_build_object)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{place} is not JSON: {reason}", f"write one JSON object per line: {SHAPES}") from None
    if not isinstance(row, dict):
        raise DataError(f"{place} is not a JSON object", f"write one of {SHAPES}")
    _refuse_weight(row, place)
    name = f"line {number}" if row.get("id") is None else str(row["id"])
    for key, read in (("messages", _read_chat), ("completion", _read_pair), ("output", _read_alpaca)):
        if key in row:
            return TrainingExample(*read(row, place), name)
    raise DataError(
        f"{place} has none of the known shapes: its keys are {', '.join(row) or 'none'}", f"write one of {SHAPES}"
    )


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return values


def _refuse_weight(entry: dict[str, Any], place: str) -> None:
    """Refuse a row or an answer with a weight other than 1. Other trainers scale its loss by the weight; this one
    cannot.
    """
    weight = entry.get("weight")
    if weight is None or weight == 1:
        return
    reason = "excludes it from the loss" if weight == 0 else "is neither 0 nor 1"
    raise DataError(f'{place}: "weight": {json.dumps(weight)} {reason}', "remove the row, or set its weight to 1")


def _read_chat(row: dict[str, Any], place: str) -> tuple[tuple[Message, ...], str]:
    """Only the last message is learnt, so the weights of earlier messages do not matter. A dialogue that ends with a
    question has an empty answer.
    """
    messages = _read_messages(row["messages"], f'{place}, "messages"')
    if messages and messages[-1].role == "assistant":
        _refuse_weight(row["messages"][-1], place)
        return messages[:-1], messages[-1].content
    return messages, ""


def _read_pair(row: dict[str, Any], place: str) -> tuple[tuple[Message, ...], str]:
    """A text prompt is one message of the user; prompt and completion may be lists of messages, as TRL writes them."""
    prompt, completion = row.get("prompt"), row["completion"]
    if isinstance(prompt, str):
        messages: tuple[Message, ...] = (Message("user", prompt),)
    else:
        messages = _read_messages(prompt, f'{place}, "prompt"')
    if isinstance(completion, list):
        answers = _read_messages(completion, f'{place}, "completion"')
        if [message.role for message in answers] != ["assistant"]:
            raise DataError(
                f'{place}: "completion" is not one message of the assistant', "write its text, or one message"
            )
        _refuse_weight(completion[0], place)
        completion = answers[0].content
    return messages, _read_text(completion, f'{place}, "completion"')


def _read_alpaca(row: dict[str, Any], place: str) -> tuple[tuple[Message, ...], str]:
    """The input follows the instruction in one message; `history` has the earlier messages."""
    instruction = _read_text(row.get("instruction"), f'{place}, "instruction"')
    context = _read_text(row.get("input") or "", f'{place}, "input"')
    system = _read_text(row.get("system") or "", f'{place}, "system"')
    history = _read_history(row.get("history") or [], f'{place}, "history"')
    messages = (*history, Message("user", f"{instruction}\n\n{context}" if context else instruction))
    return (Message("system", system), *messages) if system else messages, _read_text(
        row["output"], f'{place}, "output"'
    )


def _read_history(value: Any, place: str) -> tuple[Message, ...]:
    """Pairs of question and answer, as LLaMA-Factory writes them."""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise DataError(f"{place} is not a list of pairs", 'write [["question", "answer"], …]')
    turns = (zip(("user", "assistant"), pair, strict=True) for pair in value)
    return tuple(Message(cast(Role, role), _read_text(text, place)) for turn in turns for role, text in turn)


def _read_messages(value: Any, place: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError(f"{place} is not a list of messages", 'write [{"role": "user", "content": "…"}, …]')
    return tuple(
        Message(
            cast(Role, _read_text(message.get("role"), f"{place}, role")), _read_text(message.get("content"), place)
        )
        for message in value
    )


def _read_text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place} is {type(value).__name__}, not text", "write a JSON string")
    return value
