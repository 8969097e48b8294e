"""`nanoflux sandbox`: run a program in the sandbox, check it, or benchmark it."""

import sys
from pathlib import Path
from typing import Any

import click

from nanoflux_local.cli.common import print_json, print_table, sanitize, say, with_json


@click.group(name="sandbox")
def command() -> None:
    """Run untrusted Python in the sandbox, check its layers on this machine, or benchmark it."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--wall", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="Time limit in seconds."
)
@with_json
def run(file: Path, wall: float, as_json: bool) -> None:
    """Run the program in FILE. Exit code 0 for `ok`, 3 if no isolation is available, 1 otherwise."""
    from nanoflux_sandbox import commands

    outcome = commands.run_file(file, wall)
    if as_json:
        print_json(outcome)
    else:
        for stream, text in ((sys.stdout, outcome["stdout"]), (sys.stderr, outcome["stderr"])):
            printed_text = sanitize(text) if stream.isatty() else text  # a terminal would execute control sequences
            click.echo(printed_text, file=stream, nl=False)
        if outcome["status"] != "ok":
            say(f"[{outcome['status']}] {outcome['detail']}")
    sys.exit(commands.exit_code(outcome))


@command.command()
@with_json
def check(as_json: bool) -> None:
    """Check which isolation layers are active on this machine, and whether they suffice to run programs."""
    from nanoflux_sandbox import commands

    outcome = commands.check()
    if as_json:
        print_json(outcome)
    else:
        absent_state = "not tested" if outcome["timed_out"] else "missing"
        rows: list[list[Any]] = [
            [name, "active" if is_active else absent_state] for name, is_active in outcome["layers"].items()
        ]
        print_table(("layer", "state"), [*rows, ["backend", outcome["backend"]], ["safe", outcome["safe"]]])
        for reason in outcome["reasons"]:
            say(reason)
    sys.exit(commands.exit_code(outcome))


@command.command()
@click.option(
    "--calls",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Number of times to run each benchmark program.",
)
@with_json
def bench(calls: int, as_json: bool) -> None:
    """Measure the overhead of the sandbox in milliseconds."""
    from nanoflux_sandbox import commands

    outcome = commands.bench(calls)
    if as_json:
        print_json(outcome)
    else:
        print_table(("measurement", "value"), [[name, value] for name, value in outcome.items()])
    sys.exit(commands.exit_code(outcome))
