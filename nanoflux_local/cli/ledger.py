"""`nanoflux ledger`: the one file that remembers everything: its size, its compaction, its backups."""

from dataclasses import asdict
from pathlib import Path

import click

from nanoflux_local.cli.common import Bar, home, print_json, print_table, say, with_json


@click.group(name="ledger")
def command() -> None:
    """The ledger: every call, run and result, in one file."""


@command.command()
@with_json
def show(as_json: bool) -> None:
    """Show the ledger's size and contents."""
    from nanoflux_local.ledger.compaction import file_bytes
    from nanoflux_local.ledger.views import LedgerView

    path = home().ledger
    with LedgerView(path) as view:
        row_counts = view.contents()
        contents = {
            "path": str(path),
            "bytes": file_bytes(path),
            "free_bytes": view.free_bytes(),
            "packed": row_counts.pop("packs"),
            **row_counts,
        }
    if as_json:
        print_json(contents)
    else:
        print_table(
            ("ledger", str(path)), [(key.replace("_", " "), contents[key]) for key in contents if key != "path"]
        )


@command.command()
@with_json
def compact(as_json: bool) -> None:
    """Pack what calls said; while nothing is worked on, give the room back too.

    Safe beside a run, and to kill: whatever is not packed stays as it was, and the next compaction goes on.
    """
    from nanoflux_local import jobs
    from nanoflux_local.ledger.compaction import compact as compacted
    from nanoflux_local.ledger.views import LedgerView

    place = home()
    with LedgerView(place.ledger) as view:
        working = jobs.at_work(place, view)
    bar = Bar("packed")
    try:
        result = compacted(place.ledger, not working, bar.show)
    finally:
        bar.close()
    if as_json:
        print_json(asdict(result))
    else:
        print_table(
            ("packed", f"{result.packed} calls"),
            [
                ("their texts", f"{result.texts_before} bytes, now {result.texts_after}"),
                ("the file", f"{result.bytes_before} bytes, now {result.bytes_after}"),
            ],
        )
    if working:
        say(f"{working[0]} is being worked on: the file keeps its size until a compaction with nothing at work")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@with_json
def backup(file: Path, as_json: bool) -> None:
    """Copy the ledger to FILE as it is now, also while runs go on; the copy is checked, and nothing is overwritten.

    It is restored by putting it in the ledger's place: NANOFLUX_HOME/ledger.db.
    """
    from nanoflux_local.ledger.backup import back_up
    from nanoflux_local.ledger.views import LedgerView

    path = home().ledger
    with LedgerView(path):  # says what is wrong with the ledger before anything is written
        pass
    bar = Bar("copied")
    try:
        size = back_up(path, file, bar.show)
    finally:
        bar.close()
    if as_json:
        print_json({"backup": str(file), "bytes": size})
    else:
        say(f"{file}: {size} bytes, checked")
