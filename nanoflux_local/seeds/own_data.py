"""Parses a user's own data: the rows of a file (docs/how-to/domains.md), under a name that is not a benchmark's."""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from nanoflux_local.answers import exact_number, float_or_none
from nanoflux_local.seeds.benchmarks.base import Format
from nanoflux_local.seeds.rows import BadRowError, ParsedRow, read_optional_text, read_required_text
from nanoflux_local.seeds.splits import SPLITS

LETTERS = "ABCDEFGHIJ"
"""The letters that options may have; they are used in this order."""
KEYS = ("question", "answer", "solution", "program", "options", "id", "split")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
"""The pattern of valid names for own data."""


def parse_row(row: Mapping[str, Any], file: str) -> ParsedRow:
    """Parse a row with a question, an answer and any of the other `KEYS`. Options may also be in columns A to J.

    Raises:
        BadRowError: a key is unknown or missing, or a value is not valid.
    """
    del file  # the format of own data does not depend on the file's name
    cells = {key: value for key, value in row.items() if value is not None and value != ""}
    unknown_keys = [key for key in cells if key not in (*KEYS, *LETTERS)]
    if unknown_keys:
        raise BadRowError(
            f"unknown key {unknown_keys[0]!r}; own data has {', '.join(KEYS)}, or options in columns A to J"
        )
    options = _read_options(cells)
    cells["answer"] = _read_answer(row.get("answer"), bool(options))
    split = read_optional_text(cells, "split")
    if split not in ("", *SPLITS):
        raise BadRowError(f"key 'split' is {split!r}, not train, dev or test")
    question, answer = read_required_text(row, "question"), read_required_text(cells, "answer")
    if options and answer not in options:
        raise BadRowError(f"the answer {answer!r} is not one of the options {', '.join(options)}")
    solution = read_required_text(cells, "solution") if "solution" in cells else ""
    program = read_required_text(cells, "program") if "program" in cells else ""
    return ParsedRow(question, answer, solution, program, options, id=read_optional_text(cells, "id"), split=split)


def _read_answer(answer: Any, is_choice: bool) -> str | None:
    """The answer to store: a number becomes a string with all its digits; a string or None stays unchanged.

    Raises:
        BadRowError: the answer is NaN, infinite, or too large for a double, or it is neither a number nor a string.
    """
    if answer is None:
        return None
    if isinstance(answer, int | float | Decimal) and not isinstance(answer, bool):
        try:
            return exact_number(answer)
        except (ValueError, OverflowError):
            raise BadRowError("key 'answer' is not a finite number below 1e308") from None
    if not isinstance(answer, str):
        raise BadRowError("key 'answer' is neither a number nor a string")
    number = float_or_none(answer)
    if number is not None and not is_choice and not math.isfinite(number):
        raise BadRowError(f"key 'answer' is {answer.strip()[:20]!r}, not a finite number below 1e308")
    return answer


def _read_options(row: Mapping[str, Any]) -> dict[str, str]:
    """The options by letter: from the key `options`, as a table or as JSON text, or from the columns A, B, C …

    Raises:
        BadRowError: the options are not strings under the letters A, B, C … without a gap.
    """
    options = row.get("options", {letter: str(row[letter]) for letter in LETTERS if letter in row})
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except (ValueError, RecursionError):
            raise BadRowError("""key 'options' is not JSON like {"A": "…", "B": "…"}""") from None
    if not isinstance(options, dict):
        raise BadRowError("key 'options' is not a table of letters and strings")
    # A Parquet row has every letter that occurs in its file, with null for the options that the row does not have.
    options = {letter: text for letter, text in options.items() if text is not None}
    are_letters_in_order = list(options) == list(LETTERS[: len(options)])
    if not are_letters_in_order or not all(isinstance(text, str) for text in options.values()):
        raise BadRowError("key 'options' does not contain strings under A, B, C …")
    return options


OWN_FORMAT = Format(parse_row, official_splits=True)
