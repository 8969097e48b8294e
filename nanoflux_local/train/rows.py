"""Rows in a file: JSON lines in the three shapes that others write, and the one in which a training keeps its own.

Owns the shapes and names a row that has none of them by file and line. What can be read but not learnt from (an empty
answer, roles out of order, a lone surrogate) is left to `audit`, which names each by its row.
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
        DataError: the file is not there or no UTF-8, or a line is no row; file and line are named.
        NothingMatchedError: there is no row in it.
    """
    try:
        lines = read_utf8(path).split("\n")  # not splitlines: JSON strings may hold U+2028
    except (OSError, EncodingError) as error:
        raise DataError(f"{path} cannot be read: {error}", "name a UTF-8 file with one JSON object a line") from error
    rows = [_row(line, f"{path} line {number}", number) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise NothingMatchedError(f"{path} holds no rows", f"one JSON object a line: {SHAPES}")
    return rows


def write_rows(path: Path, rows: Sequence[TrainingExample]) -> None:
    """The rows as they are, so that `read_rows` gives equal ones. Raises OSError."""
    kept = (json.dumps(asdict(row)) for row in rows)  # ASCII: a lone surrogate stays what it is
    write_atomically(path, "".join(line + "\n" for line in kept).encode())


def _row(line: str, place: str, number: int) -> TrainingExample:
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise DataError(f"{place} is no JSON: {reason}", f"one JSON object a line: {SHAPES}") from None
    if not isinstance(row, dict):
        raise DataError(f"{place} is no JSON object", f"one of {SHAPES}")
    _refuse_weight(row, place)
    name = f"line {number}" if row.get("id") is None else str(row["id"])
    for key, shape in (("messages", _chat), ("completion", _pair), ("output", _alpaca)):
        if key in row:
            return TrainingExample(*shape(row, place), name)
    raise DataError(
        f"{place} has none of the known shapes: its keys are {', '.join(row) or 'none'}", f"one of {SHAPES}"
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return values


def _refuse_weight(entry: dict[str, Any], place: str) -> None:
    """Refuse a row or an answer that other trainers would leave out of the loss, or weigh: all rows weigh the same."""
    weight = entry.get("weight")
    if weight is None or weight == 1:
        return
    reason = "says that nothing is to be learnt from it" if weight == 0 else "is neither 0 nor 1"
    raise DataError(f'{place}: "weight": {json.dumps(weight)} {reason}', "leave the row out, or set its weight to 1")


def _chat(row: dict[str, Any], place: str) -> tuple[tuple[Message, ...], str]:
    """The last message is learnt, whatever weights those before have; a dialogue that ends with a question has an
    empty answer."""
    messages = _messages(row["messages"], f'{place}, "messages"')
    if messages and messages[-1].role == "assistant":
        _refuse_weight(row["messages"][-1], place)
        return messages[:-1], messages[-1].content
    return messages, ""


def _pair(row: dict[str, Any], place: str) -> tuple[tuple[Message, ...], str]:
    """A prompt that is text is a user's message; both sides may be lists of messages, as trl writes them."""
    prompt, completion = row.get("prompt"), row["completion"]
    if isinstance(prompt, str):
        messages: tuple[Message, ...] = (Message("user", prompt),)
    else:
        messages = _messages(prompt, f'{place}, "prompt"')
    if isinstance(completion, list):
        answers = _messages(completion, f'{place}, "completion"')
        if [message.role for message in answers] != ["assistant"]:
            raise DataError(
                f'{place}: "completion" is not one message of the assistant', "give its text, or one message"
            )
        _refuse_weight(completion[0], place)
        completion = answers[0].content
    return messages, _text(completion, f'{place}, "completion"')


def _alpaca(row: dict[str, Any], place: str) -> tuple[tuple[Message, ...], str]:
    """The input stands below the instruction, and what was said before in `history`, where there is any."""
    asked = _text(row.get("instruction"), f'{place}, "instruction"')
    given = _text(row.get("input") or "", f'{place}, "input"')
    system = _text(row.get("system") or "", f'{place}, "system"')
    before = _history(row.get("history") or [], f'{place}, "history"')
    messages = (*before, Message("user", f"{asked}\n\n{given}" if given else asked))
    return (Message("system", system), *messages) if system else messages, _text(row["output"], f'{place}, "output"')


def _history(value: Any, place: str) -> tuple[Message, ...]:
    """Pairs of question and answer, as LLaMA-Factory writes them."""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise DataError(f"{place} is no list of pairs", '[["question", "answer"], …]')
    turns = (zip(("user", "assistant"), pair, strict=True) for pair in value)
    return tuple(Message(cast(Role, role), _text(text, place)) for turn in turns for role, text in turn)


def _messages(value: Any, place: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError(f"{place} is no list of messages", '[{"role": "user", "content": "…"}, …]')
    return tuple(
        Message(cast(Role, _text(message.get("role"), f"{place}, role")), _text(message.get("content"), place))
        for message in value
    )


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place} is {type(value).__name__}, not text", "write it as a JSON string")
    return value
