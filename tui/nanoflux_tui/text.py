"""Text on its way to the screen: the one place through which whatever a model, a file or a server wrote must pass.

A terminal obeys control characters; here each becomes a mark. What is very long is cut, and says so.
"""

import math
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

LONGEST = 20_000
"""Characters of one text on the screen: a model may write a megabyte, and nobody reads it here."""
WIDEST = 400
TAB = "    "


def harmless(text: str, longest: int = LONGEST) -> str:
    """The text without anything that a terminal would obey: escapes, other controls, marks that turn its direction."""
    cut = text[:longest]
    clean = "".join(
        character if character.isprintable() or character == "\n" else TAB if character == "\t" else "�"
        for character in cut.replace("\r\n", "\n")
    )
    left = len(text) - len(cut)
    return f"{clean}\n… and {left:,} more characters" if left > 0 else clean


def line(text: object, widest: int = WIDEST) -> str:
    """The same in one line, for a table's cell."""
    whole = str(text)
    cut = harmless(" ".join(whole[: widest * 2].split()), 2 * widest)[:widest]
    return f"{cut}…" if len(whole) > len(cut) + 1 and len(cut) == widest else cut


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 45 s, 12 min, 3.5 h, 2.1 d."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def count(number: float) -> str:
    """A number in few characters: 950, 12.3k, 4.1M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            scale = {"G": 1e9, "M": 1e6, "k": 1e3}[unit]
            return f"{number / scale:.1f}{unit}"
    return f"{number:,.0f}"


def ago(moment: str, now: datetime | None = None) -> str:
    """How long ago the ledger wrote this time."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return "–"
    return duration(max(0.0, ((now or datetime.now(UTC)) - then).total_seconds()))


def clock(moment: str) -> str:
    """A time of the ledger as hours, minutes and seconds, in UTC as it stands there."""
    return moment[11:19]


def command(words: Sequence[str]) -> str:
    """The command line that does the same."""
    return shlex.join(["nanoflux", *words])
