"""Reads the multiple-choice items of the starter domains for genetics and medicine, which were written for this
project.

The files are `genetics.jsonl` (five options) and `medicine.jsonl` (four options), with one JSON object per line:

    id        unique in its file, kebab-case, begins with the file's name
    split     "train", "dev" or "test"
    question  the question without the options
    options   the options' texts under the letters "A", "B", ... without a gap
    answer    the letter of the right option
    solution  two to four sentences of reasoning that mention no letter of an option
    source    where the fact can be looked up

A row with an unknown or missing key is refused. The domain decides how its prompts show the options.
"""

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from nanoflux_local.domains.starter.templates import SPLITS, Split
from nanoflux_local.errors import DataError, UsageError

NAMES = ("genetics", "medicine")
_TEXT_KEYS = ("id", "split", "question", "answer", "solution", "source")
_KEYS = frozenset({*_TEXT_KEYS, "options"})


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """One multiple-choice question with its solution and source."""

    id: str
    split: Split
    question: str
    options: Mapping[str, str]
    answer: str
    solution: str
    source: str


@cache
def load_choice_items(name: str) -> tuple[ChoiceItem, ...]:
    """All items of "genetics" or "medicine", in the order of the file.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in NAMES:
        raise UsageError(f"there are no starter items named {name!r}", f"choose one of: {', '.join(NAMES)}")
    file = resources.files(__package__) / f"{name}.jsonl"
    return parse_choice_items(file.name, file.read_text(encoding="utf-8"))


def parse_choice_items(file: str, content: str) -> tuple[ChoiceItem, ...]:
    """The items in `content`, which is JSON Lines.

    Raises:
        DataError: a row is not valid, or repeats an id or a question; the message names `file` and the line.
    """
    items: list[ChoiceItem] = []
    seen_texts: set[str] = set()
    for line_number, line in enumerate(content.splitlines(), start=1):
        location = f"{file}, line {line_number}"
        item = _parse_item(location, line)
        for text in (item.id, item.question):
            _require(text not in seen_texts, location, f"{text!r} is used twice")
            seen_texts.add(text)
        items.append(item)
    return tuple(items)


def _parse_item(location: str, line: str) -> ChoiceItem:
    """The item in a line. Raises DataError, which names `location`, if it is invalid."""
    row = _parse_row(location, line)
    for key in row:
        _require(key in _KEYS, location, f"key {key!r} is unknown")
    for key in sorted(_KEYS):
        _require(key in row, location, f"key {key!r} is missing")
    for key in _TEXT_KEYS:
        _require(_is_non_empty_string(row[key]), location, f"key {key!r} must be a non-empty string")
    _require(row["split"] in SPLITS, location, f"key 'split' must be one of {', '.join(SPLITS)}")
    options = _parse_options(location, row["options"])
    _require(row["answer"] in options, location, f"key 'answer' must be one of {', '.join(options)}")
    return ChoiceItem(**{key: row[key] for key in _TEXT_KEYS}, options=options)


def _parse_row(location: str, line: str) -> dict[str, Any]:
    """The JSON object in a line."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{location}: not valid JSON: {error}", "correct the line; nothing was loaded") from error
    _require(isinstance(row, dict), location, "must be a JSON object")
    return dict(row)


def _parse_options(location: str, options: Any) -> Mapping[str, str]:
    """The options of an item. Raises DataError if their letters or texts are invalid."""
    _require(
        isinstance(options, dict) and len(options) > 1, location, "key 'options' must be an object with several options"
    )
    letters = list(string.ascii_uppercase[: len(options)])
    _require(list(options) == letters, location, f"key 'options' must have the letters {', '.join(letters)} in order")
    _require(
        all(_is_non_empty_string(text) for text in options.values()),
        location,
        "key 'options' must map letters to non-empty strings",
    )
    _require(len(set(options.values())) == len(options), location, "key 'options' has the same text twice")
    return MappingProxyType(options)


def _is_non_empty_string(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _require(condition: bool, location: str, problem: str) -> None:
    """Raise DataError with this location and problem if `condition` is false."""
    if not condition:
        raise DataError(f"{location}: {problem}", "correct the file; nothing was loaded")
