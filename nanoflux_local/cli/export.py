"""`nanoflux export`: write a run's kept examples as a file for other trainers, with a card."""

from pathlib import Path
from typing import Any

import click

from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import (
    NewPath,
    build_choice,
    current_home,
    print_json,
    print_table,
    say,
    with_choice,
    with_json,
)
from nanoflux_local.cli.names import RUN
from nanoflux_local.errors import UsageError

FORMATS = ("chat", "prompt-completion", "alpaca", "parquet", "preference")
TRAINERS = ("trl", "llama-factory", "axolotl")
"""Copies of the names in `examples.export` and `examples.trainers`, so that `--help` does not import these modules."""


@click.command(name="export")
@click.argument("run", type=RUN)
@click.option(
    "--format", "row_format", type=click.Choice(FORMATS), default="chat", show_default=True, help="Format of the rows."
)
@click.option(
    "--for",
    "trainer",
    type=click.Choice(TRAINERS),
    default=None,
    help="Also write the file that describes the rows to this trainer, and print its command.",
)
@click.option(
    "-o",
    "--out",
    type=NewPath(),
    required=True,
    help="New file for the rows; the card is written next to it.",
)
@with_choice
@click.option("--base", default="", metavar="MODEL", help="Untuned model for --solution likeliest.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the random draw for --size."
)
@with_json
def command(
    run: str, row_format: str, trainer: str | None, out: Path, base: str, seed: int, as_json: bool, **choice: Any
) -> None:
    """Write the kept examples of RUN as a dataset in the format that `train` uses, with a card on their origin.

    Existing files are not overwritten, and a failed export leaves no partial file.
    """
    from nanoflux_local.examples.export import export
    from nanoflux_local.train.origin import describe_included, describe_left_out

    if base and choice["solution"] != "likeliest":
        raise UsageError("--base applies only to --solution likeliest", "leave out --base, or add --solution likeliest")
    bar = Bar("comparing solutions", "solutions")
    try:
        summary = export(current_home(), run, row_format, out, build_choice(choice, seed), base, bar.show,
                         trainer or "")  # fmt: skip
    finally:
        bar.close()
    for sentence in describe_left_out(summary.choice):
        say(f"left out: {sentence}")
    for sentence in describe_included(summary.choice):
        say(f"included: {sentence}")
    if summary.without_rejected:
        say(f"left out: {summary.without_rejected} without a wrong answer from the defender")
    if as_json:
        print_json(summary.to_json())
        return
    counts = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
    print_table(
        ("exported", summary.file),
        [("rows", f"{summary.rows} ({counts})"), ("digest", summary.digest), ("SHA-256", summary.sha256)],
    )
    say(f"dataset card: {summary.card}")
    if summary.command:
        say(f"for {trainer}: {summary.description}; in its folder, run: {summary.command}")
