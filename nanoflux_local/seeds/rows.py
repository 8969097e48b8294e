"""The content of one row of a benchmark's files, and functions that read its cells.

A benchmark's parser turns a row into a `ParsedRow`, or raises `BadRowError` with the reason why it cannot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class BadRowError(Exception):
    """A row that does not have its benchmark's layout; the message is the reason."""


class BlankRowError(Exception):
    """A row without content, which is counted rather than reported as an error."""


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """The content of a row. `id` is the benchmark's id, "" if rows have none; `group` is a part of the benchmark, such
    as a subject.

    A row without a question is a label: it assigns the item with the same id to `split` and repeats its answer.
    """

    question: str
    answer: str
    solution: str = ""
    program: str = ""
    options: dict[str, str] = field(default_factory=dict)
    id: str = ""
    group: str = ""
    split: str = ""


def read_required_text(row: Mapping[str, Any], *names: str) -> str:
    """The text under the first of `names` that the row has, stripped.

    Raises:
        BadRowError: the row has none of the keys, or the value is not a text or is empty.
    """
    name = next((name for name in names if name in row), names[0])
    value = row.get(name)
    if not isinstance(value, str):
        raise BadRowError(f"key {name!r} is missing or is not a text")
    if not value.strip():
        raise BadRowError(f"key {name!r} is empty")
    return value.strip()


def read_optional_text(row: Mapping[str, Any], *names: str) -> str:
    """The value under the first of `names` that is not null, as a stripped text; "" if there is none."""
    value = next((row[name] for name in names if row.get(name) is not None), "")
    return str(value).strip()


def make_choice_row(question: str, options: Mapping[str, str], answer: str, **fields: str) -> ParsedRow:
    """A multiple-choice item; `answer` is an option's letter, `fields` are further fields of `ParsedRow`.

    Raises:
        BadRowError: `answer` is not the letter of an option.
    """
    if answer not in options:
        raise BadRowError(f"the answer {answer!r} is not one of the options {', '.join(options)}")
    return ParsedRow(question, answer, options=dict(options), **fields)
