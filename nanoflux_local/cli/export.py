"""`nanoflux export`: the kept examples of a run as a file for other trainers, with a card."""

from pathlib import Path
from typing import Any

import click

from nanoflux_local.cli.common import choice_of, home, print_json, print_table, say, with_choice, with_json

FORMATS = ("chat", "prompt-completion", "alpaca", "parquet")


@click.command(name="export")
@click.argument("run")
@click.option("--format", "kind", type=click.Choice(FORMATS), default="chat", show_default=True)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="A new file; its card goes beside it."
)
@with_choice
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the examples of --size.")
@with_json
def command(run: str, kind: str, out: Path, seed: int, as_json: bool, **choice: Any) -> None:
    """Write the kept examples of RUN as a dataset, as `train` learns them, and a card that says what made it.

    Nothing is written over, and nothing is left half-written.
    """
    from nanoflux_local.examples.export import export

    found = export(home(), run, kind, out, choice_of(choice, seed))
    if as_json:
        print_json(found)
        return
    counts = ", ".join(f"{reason} {count}" for reason, count in found["reasons"].items())
    print_table(
        ("exported", found["file"]),
        [("rows", f"{found['rows']} ({counts})"), ("digest", found["digest"]), ("SHA-256", found["sha256"])],
    )
    say(f"its card is {found['card']}")
