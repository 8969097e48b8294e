"""Formats tables as CSV without text that a spreadsheet would evaluate, and as Markdown with escaped cells."""

import csv
import io
from collections.abc import Sequence

from nanoflux_local.report.page import sanitize

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
"""Characters that start a formula in a spreadsheet (OWASP, CSV injection)."""


def format_csv(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in CSV (RFC 4180). Text that a spreadsheet would evaluate gets a leading apostrophe; numbers do not."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(headings)
    writer.writerows([[_escape_cell(value) for value in row] for row in rows])
    return buffer.getvalue()


def _escape_cell(value: object) -> object:
    """`value` as a cell of a CSV table: "" for None, and text so that no spreadsheet evaluates it."""
    if not isinstance(value, str):
        return "" if value is None else value
    text = str(sanitize(value))
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


def format_markdown(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; characters with a meaning in Markdown are escaped in the rows."""
    escaped_rows = [[_escape_markdown(value) for value in row] for row in rows]
    table = [headings, ["---"] * len(headings), *escaped_rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _escape_markdown(value: object) -> str:
    """`value` as a cell of a Markdown table, in one line."""
    text = " ".join(str(sanitize(str(value))).split())
    for character in "\\`|*_<[":
        text = text.replace(character, f"\\{character}")
    return text
