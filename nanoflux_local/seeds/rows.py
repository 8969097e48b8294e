"""The content of one row of a benchmark's files, and functions that read its cells.

A benchmark's parser turns a row into a `ParsedRow`, or raises `BadRowError` with the reason why it cannot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class BadRowError(Exception):
    """A row that does not have its benchmark's layout; the message is the reason."""


class BlankRowError(Exception):
    """A row without content. Such rows are counted, but do not stop the import."""


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """The content of a row. `id` is the row's id in the file, or "" if the file has no ids. `group` is the part of the
    benchmark to which the row belongs, such as a subject. `split` is the split that the row names, or "".

    A row without a question is a label, as in PubMedQA's file of test answers: it assigns the item with the same `id`
    to `split` and repeats the item's answer.
    """

    question: str
    answer: str
    solution: str = ""
    program: str = ""
    options: dict[str, str] = field(default_factory=dict)
    id: str = ""
    group: str = ""
    split: str = ""


def read_required_text(row: Mapping[str, Any], *keys: str) -> str:
    """The string under the first of `keys` that the row has, stripped.

    Raises:
        BadRowError: the row has none of the keys, or the value is null, not a string, or empty.
    """
    key = next((key for key in keys if key in row), keys[0])
    value = row.get(key)
    if value is None:
        raise BadRowError(f"key {key!r} is missing or null")
    if not isinstance(value, str):
        raise BadRowError(f"key {key!r} is not a string")
    if not value.strip():
        raise BadRowError(f"key {key!r} is empty")
    return value.strip()


def read_optional_text(row: Mapping[str, Any], *keys: str) -> str:
    """The value under the first of `keys` that is not null, as a stripped string; "" if there is none."""
    value = next((row[key] for key in keys if row.get(key) is not None), "")
    return str(value).strip()


def make_choice_row(question: str, options: Mapping[str, str], answer: str, **fields: str) -> ParsedRow:
    """A multiple-choice item; `answer` is an option's letter, `fields` are further fields of `ParsedRow`.

    Raises:
        BadRowError: `answer` is not the letter of an option.
    """
    if answer not in options:
        raise BadRowError(f"the answer {answer!r} is not one of the options {', '.join(options)}")
    return ParsedRow(question, answer, options=dict(options), **fields)
