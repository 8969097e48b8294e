"""`nanoflux ledger`: show, compact and back up the file that stores every call, run and result."""

from dataclasses import asdict
from pathlib import Path

import click

from nanoflux_local.cli.bar import Bar
from nanoflux_local.cli.common import NewPath, current_home, print_json, print_table, say, with_json
from nanoflux_local.quantities import format_quantity


@click.group(name="ledger")
def command() -> None:
    """Show, compact and back up the ledger: one file with every call, run and result."""


@command.command()
@with_json
def show(as_json: bool) -> None:
    """Show the ledger's size and contents."""
    from nanoflux_local.ledger.compaction import measure_file_bytes
    from nanoflux_local.ledger.views import LedgerView

    path = current_home().ledger
    with LedgerView(path) as view:
        row_counts = view.contents()
        contents = {
            "path": str(path),
            "bytes": measure_file_bytes(path),
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
    """Compress the texts of calls, and shrink the file if no run, training or evaluation is active.

    A compaction is safe while a run is active, and can be killed at any time: calls that are not yet compressed stay
    unchanged, and the next compaction resumes with them.
    """
    from nanoflux_local import jobs
    from nanoflux_local.ledger.compaction import compact as compact_ledger
    from nanoflux_local.ledger.views import LedgerView

    home = current_home()
    with LedgerView(home.ledger) as view:
        running_jobs = jobs.list_running_jobs(home, view)
    bar = Bar("compressing", "calls")
    try:
        result = compact_ledger(home.ledger, not running_jobs, bar.show)
    finally:
        bar.close()
    if as_json:
        print_json(asdict(result))
    else:
        print_table(
            ("compressed", format_quantity(result.packed, "call")),
            [
                ("texts of calls", f"{result.texts_before} bytes before, {result.texts_after} after"),
                ("ledger file", f"{result.bytes_before} bytes before, {result.bytes_after} after"),
            ],
        )
    if running_jobs:
        say(f"the file keeps its size while {running_jobs[0]} is active; compact it again afterwards to shrink it")


@command.command()
@click.argument("file", type=NewPath())
@with_json
def backup(file: Path, as_json: bool) -> None:
    """Back up the ledger to the new FILE, even while runs are active, and verify the copy.

    To restore the backup, stop all processes that use the ledger, replace NANOFLUX_HOME/ledger.db with FILE, and remove
    NANOFLUX_HOME/ledger.db-wal if it exists.
    """
    from nanoflux_local.ledger.backup import back_up
    from nanoflux_local.ledger.views import LedgerView

    path = current_home().ledger
    with LedgerView(path):  # an unreadable ledger fails here, before anything is written
        pass
    bar = Bar("copying", "pages")
    try:
        size = back_up(path, file, bar.show)
    finally:
        bar.close()
    if as_json:
        print_json({"backup": str(file), "bytes": size})
    else:
        say(f"{file}: {size} bytes, verified")
