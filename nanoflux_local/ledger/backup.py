"""Backup: a copy of the ledger as it is at one moment, made with SQLite's own online backup while runs go on.

The copy is checked before it gets its name, so that a file of that name is always a whole backup. Overwrites nothing.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from nanoflux_local.errors import LedgerError, RefusedError
from nanoflux_local.ledger.store import BUSY_TIMEOUT_S, told_as_ledger_errors

STEP_PAGES = 4096


def back_up(ledger: Path, target: Path, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> int:
    """Copy the ledger to `target`, private to its owner; returns the copy's bytes.

    Raises:
        RefusedError: `target` exists.
        LedgerError: the copy could not be written, or is not sound; nothing is left behind.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    _refuse_taken(target)
    try:
        part.touch(mode=0o600, exist_ok=False)
        with told_as_ledger_errors(target):
            _copy(ledger, part, on_progress)
            _check(part)
        part.chmod(0o600)
        _name(part, target)
    except OSError as error:
        raise LedgerError(f"the backup cannot be written: {error}", "name a file in a folder of yours") from error
    finally:
        for path in (part, *(part.with_name(part.name + end) for end in ("-journal", "-wal", "-shm"))):
            path.unlink(missing_ok=True)
    return target.stat().st_size


def _refuse_taken(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise RefusedError(f"{target} exists, and no backup is overwritten", "name another file, or move it away")


def _copy(ledger: Path, part: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy within one read transaction: writers go on beside it, and none of what they write begins it anew."""
    source = sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
    with closing(source), closing(sqlite3.connect(part)) as copy:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on, this moment is what is read
        source.backup(copy, pages=STEP_PAGES, progress=lambda _, left, total: on_progress(total - left, total))
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, readable from a medium that cannot be written


def _check(part: Path) -> None:
    with closing(sqlite3.connect(f"{part.absolute().as_uri()}?mode=ro", uri=True)) as copy:
        verdict = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise LedgerError(
            f"the copy is not sound: {verdict}", "the ledger itself may be damaged: `nanoflux run verify RUN`"
        )


def _name(part: Path, target: Path) -> None:
    """Give the finished copy its name, unless somebody took it meanwhile, and see to it that it stays."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(part, target)
    except FileExistsError:
        _refuse_taken(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
