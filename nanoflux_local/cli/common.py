"""Helpers of the commands: the home directory, shared options, JSON and tables on stdout, messages on stderr."""

import json
import math
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nanoflux_local.paths import Home, default_home

if TYPE_CHECKING:
    from nanoflux_local.jobs import Job
    from nanoflux_local.train.choice import Choice

KEPT = ("kept_failed", "kept_novel")
"""The reasons for keeping an example: a copy of `transcript.KEPT`, so that `--help` does not import that module."""
SOLUTION_RULES = ("author", "solver", "own", "shortest", "likeliest")
"""A copy of the rules in `train.solutions`, so that `--help` does not import that module."""
MAX_CELL_CHARS = 1000
"""Maximum length of a table cell, in characters, since a model may write a line of several megabytes."""
MAX_NAME_CHARS = 100
"""Maximum length of the name of a run or a reviewer, in characters."""
_COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL_CHARACTER = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A number of at least a minimum; `nan` and `inf` are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class PlainName(click.ParamType[str]):
    """A name that people read in lists: at most `MAX_NAME_CHARS` characters, not only spaces."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value and not value.strip():
            self.fail("the name has only spaces.", param, ctx)
        if len(value) > MAX_NAME_CHARS:
            self.fail(f"the name has {len(value)} characters; at most {MAX_NAME_CHARS} are possible.", param, ctx)
        return value


class NewPath(click.Path):
    """The path of a file or directory that the command writes; a path without a name, such as "", is refused."""

    def __init__(self, dir_okay: bool = True) -> None:
        super().__init__(dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))
        if not path.name:
            self.fail(f"{str(value)!r} has no file name: pass the path of a new file or directory.", param, ctx)
        return path


def current_home() -> Home:
    """The home directory of this command, which may not exist yet."""
    return Home(default_home())


def with_json(function: F) -> F:
    """Add the option `--json`."""
    decorated: F = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)
    return decorated


def with_choice(function: F) -> F:
    """Add the options that select a run's examples and their solutions."""
    options = (
        click.option("--reason", type=click.Choice(KEPT), help="Select examples kept for this reason."),
        click.option("--level", type=click.IntRange(1, 5), help="Select examples of this quality level."),
        click.option("--where", default="", metavar="SQL", help="Select examples that meet this SQL condition."),
        click.option("--size", type=click.IntRange(1), help="Number of examples, drawn at random with the seed."),
        click.option(
            "--solution",
            type=click.Choice(SOLUTION_RULES),
            default="author",
            show_default=True,
            help="Right solution to train on: the author's, a blind solver's, the defender's own, the shortest, or the "
            "one that the untuned model finds likeliest.",
        ),
        click.option("--include-dropped", is_flag=True, help="Include examples that a reviewer dropped."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def build_choice(options: dict[str, Any], seed: int) -> "Choice":
    """The selection of examples that the options of `with_choice` describe; `seed` draws the examples of `--size`."""
    from nanoflux_local.train.choice import Choice

    return Choice(**{key: value for key, value in options.items() if value is not None}, seed=seed)


def launch_detached(home: Home, job: "Job") -> None:
    """Start a background process that runs a job and outlives this terminal; print its pid and its log file."""
    from nanoflux_local import jobs

    pid = jobs.launch(home, job)
    say(f"{job}: started process {pid}; its log: {job.log(home)}")


def end_at_sigterm() -> None:
    """Make SIGTERM interrupt the command as Ctrl-C does, since background jobs of a shell ignore SIGINT."""
    signal.signal(signal.SIGTERM, _raise_keyboard_interrupt)


def _raise_keyboard_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def print_json(value: Any) -> None:
    """Print JSON as UTF-8; lone surrogates and terminal control characters are written as JSON escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    escaped_text = _CONTROL_CHARACTER.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    click.echo(escaped_text.encode("utf-8", "backslashreplace"))


def say(text: str) -> None:
    """Print a message to stderr, made safe for a terminal by `sanitize`."""
    click.echo(sanitize(text), err=True)


def sanitize(text: str) -> str:
    """Make untrusted text safe for a terminal: remove colour codes, and replace control characters with U+FFFD."""
    uncoloured_text = _COLOUR_CODE.sub("", text)
    return "".join(
        character if character.isprintable() or character in "\n\t" else "�" for character in uncoloured_text
    )


def format_cell(value: object) -> str:
    """A value as the text of a table cell: on one line, safe for a terminal, at most `MAX_CELL_CHARS` characters."""
    text = str(value)
    shortened = text[:MAX_CELL_CHARS] + "…" if len(text) > MAX_CELL_CHARS else text
    return sanitize(" ".join(shortened.splitlines()))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with aligned columns to stdout, headings first."""
    cells = [list(headings), *([format_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def describe_flops(flops: dict[str, Any]) -> str:
    """The measured FLOPs and those that the architecture predicts, both as multiples of the estimate 6ND."""
    measured, six_nd = flops["measured"], flops["6nd"]
    text = f"{measured:.3g} measured: {measured / six_nd:.2f} × 6ND ({six_nd:.3g})"
    predicted = flops.get("explained", {}).get("total")  # missing in records of older versions
    return f"{text}; the architecture predicts {predicted / six_nd:.2f} × 6ND" if predicted else text
