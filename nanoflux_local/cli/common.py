"""What the commands share: the home, JSON on stdout, tables, progress on stderr."""

import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nanoflux_local.paths import Home, default_home

if TYPE_CHECKING:
    from nanoflux_local.jobs import Work
    from nanoflux_local.train.choice import Choice

KEPT = ("kept_failed", "kept_novel")
"""The reasons to keep, as `transcript` has them; help loads no records."""
WIDEST = 1000
"""Characters of a table's cell: a model may write a line of megabytes."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OBEYED = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
F = TypeVar("F", bound=Callable[..., Any])


def home() -> Home:
    """The home folder of this command, as it is; nothing is created."""
    return Home(default_home())


def with_json(function: F) -> F:
    """Add `--json`."""
    decorated: F = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)
    return decorated


def with_choice(function: F) -> F:
    """Add the options that choose a run's examples: `reason`, `level`, `where`, `size`."""
    options = (
        click.option("--reason", type=click.Choice(KEPT), help="Only examples kept for this reason."),
        click.option("--level", type=click.IntRange(1, 5), help="Only examples of this quality level."),
        click.option("--where", default="", metavar="SQL", help="Only examples that this expression holds for."),
        click.option("--size", type=click.IntRange(1), help="This many of them, drawn by the seed."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def choice_of(options: dict[str, Any], seed: int) -> "Choice":
    """What those options ask for."""
    from nanoflux_local.train.choice import Choice

    return Choice(**{key: value for key, value in options.items() if value is not None}, seed=seed)


def launched(place: Home, work: "Work", is_done: str = "worked on") -> None:
    """Hand work to a process of its own that outlives this terminal, and say which."""
    from nanoflux_local import jobs

    pid = jobs.launch(place, work)
    say(f"{work} is {is_done} by process {pid}; its messages go to {work.log(place)}")


def end_at_sigterm() -> None:
    """From here on SIGTERM ends the work as Ctrl-C does; not through SIGINT, which a shell's background jobs are told
    to ignore.
    """
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def print_json(value: Any) -> None:
    """JSON is UTF-8 wherever it is printed; a lone surrogate, and what a terminal would obey, is written as the escape
    that JSON has for it."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo(_OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode("utf-8", "backslashreplace"))


def say(text: str) -> None:
    """A message beside the result: on stderr, with control characters made visible."""
    click.echo(plain(text), err=True)


def plain(text: str) -> str:
    """Text of a model, a file or another program for a terminal: without colour codes, control characters as marks."""
    bare = _COLOUR.sub("", text)
    return "".join(character if character.isprintable() or character in "\n\t" else "�" for character in bare)


def one_line(value: object) -> str:
    """A table's cell: text that stays in its row, and short enough for one."""
    text = str(value)
    cut = text[:WIDEST] + "…" if len(text) > WIDEST else text
    return plain(" ".join(cut.splitlines()))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns on stdout; the first row of a table is its headings."""
    cells = [list(headings), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def flops_line(flops: dict[str, Any]) -> str:
    """The counts side by side: what was measured, the convention, and what the architecture explains of both."""
    line = f"{flops['measured']:.3g} measured, {flops['measured'] / flops['6nd']:.2f} of 6ND ({flops['6nd']:.3g})"
    total = flops.get("explained", {}).get("total")  # not in records of older versions
    return f"{line}; the architecture explains {total / flops['6nd']:.2f}" if total else line


class Bar:
    """Progress on stderr: a bar that redraws itself on a terminal, a line now and then elsewhere."""

    WIDTH = 24

    def __init__(self, label: str) -> None:
        self._label = label
        self._terminal = sys.stderr.isatty()
        self._told = -1

    def show(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total`; elsewhere than on a terminal, a line for every tenth part."""
        share = min(1.0, done / total) if total else 1.0
        if self._terminal:
            filled = "█" * int(share * self.WIDTH)
            click.echo(
                f"\r{self._label} {filled:░<{self.WIDTH}} {done}/{total} {plain(note)}\x1b[K", err=True, nl=False
            )
        elif int(share * 10) != self._told:  # the next step's progress begins anew
            self._told = int(share * 10)
            click.echo(f"{self._label} {done}/{total} {plain(note)}", err=True)

    def note(self, text: str) -> None:
        """A line of its own; the next progress redraws the bar under it."""
        click.echo(f"\r\x1b[K{plain(text)}" if self._terminal else plain(text), err=True)

    def close(self) -> None:
        if self._terminal:
            click.echo(err=True)
