"""Formats text for the screen. Everything that a model, a file or a server wrote passes through this module.

Control characters, which a terminal would execute, are replaced by a mark. A very long text is truncated, and a note
says how many characters are missing.
"""

import math
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

from nanoflux_local.rate import STEADY_S, format_rate, format_seconds

MAX_CHARACTERS = 20_000
"""The maximum length of a text on the screen in characters. It is limited because a model may write a megabyte."""
MAX_LINE = 400
"""The maximum length of a line in characters."""
TAB = "    "
"""The spaces that replace a tab."""


def sanitize(text: str, limit: int = MAX_CHARACTERS) -> str:
    """The text with a mark in place of each control character, including those of terminal escapes and those that
    change the writing direction. A text with more than `limit` characters is truncated, with a note in its last line.
    """
    truncated = text[:limit]
    clean = "".join(map(_replace_control_character, truncated.replace("\r\n", "\n")))
    omitted_count = len(text) - len(truncated)
    return f"{clean}\n… and {format_quantity(omitted_count, 'more character')}" if omitted_count > 0 else clean


def _replace_control_character(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return TAB if character == "\t" else "�"


def format_line(text: object, limit: int = MAX_LINE) -> str:
    """The sanitized text as one line, for example for a table cell. A text with more than `limit` characters is
    truncated and ends in "…".
    """
    full_text = str(text)
    # Runs of spaces shrink to one space, so up to twice as many characters are needed to fill the line.
    line = sanitize(" ".join(full_text[: limit * 2].split()), 2 * limit)[:limit]
    is_truncated = len(line) == limit and len(full_text) > limit + 1
    return f"{line}…" if is_truncated else line


def truncate_start(text: str, width: int) -> str:
    """The text in at most `width` characters. A longer text loses its start, since two runs' ids often differ only at
    the end.
    """
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def format_duration(seconds: float | None) -> str:
    """Seconds in a readable unit, such as "45 s", "12 min", "3.5 h" or "2.1 d"; "–" for None or an infinite time."""
    return "–" if seconds is None or not math.isfinite(seconds) else format_seconds(seconds)


def format_pace(done: int, total: int, seconds: float, unit: str = "") -> str:
    """The mean rate of a job that has finished `done` of `total` units in `seconds`, and the time left, such as
    "1.2 steps/s, 25 s left"; "" as long as the job has finished nothing or has run for less than `STEADY_S`.
    """
    return format_rate(done / seconds, total - done, unit) if done and seconds >= STEADY_S else ""


def format_count(number: float) -> str:
    """A number in few characters: 950, 12.3k, 4.1M."""
    for smallest_number, unit, unit_size in ((1e9, "G", 1e9), (1e6, "M", 1e6), (1e4, "k", 1e3)):
        if number >= smallest_number:
            return f"{number / unit_size:.1f}{unit}"
    return f"{number:,.0f}"


def format_quantity(count: int, noun: str) -> str:
    """A count with its noun in the singular or plural, such as "1 example" or "2,000 examples"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_age(timestamp: str, now: datetime | None = None) -> str:
    """The time from a timestamp of the ledger until `now`, such as "12 min"; "–" for an unreadable timestamp."""
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return "–"
    age = (now or datetime.now(UTC)) - moment
    return format_duration(max(0.0, age.total_seconds()))


def compute_age_order(timestamp: str) -> float | None:
    """A number that sorts newer timestamps first: the negated POSIX time; None for an unreadable timestamp."""
    try:
        return -datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def format_clock(timestamp: str) -> str:
    """The time of day of a timestamp of the ledger, as hh:mm:ss in UTC."""
    return timestamp[11:19]


def format_command(arguments: Sequence[str]) -> str:
    """The `nanoflux` command line with these arguments, quoted for a shell."""
    return shlex.join(["nanoflux", *arguments])
