"""Backup: a consistent copy of the ledger, made with SQLite's online backup while runs continue.

The copy is checked before it gets its final name, so a file with that name is always a complete backup. An existing
file is never overwritten.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from nanoflux_local.errors import LedgerError, RefusedError
from nanoflux_local.ledger.store import BUSY_TIMEOUT_S, translate_sqlite_errors

PAGES_PER_STEP = 4096
"""The number of pages that one step of SQLite's backup copies."""


def back_up(ledger: Path, target: Path, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> int:
    """Copy the ledger to `target`, readable by its owner only. Returns the size of the copy in bytes.

    Raises:
        RefusedError: `target` exists.
        LedgerError: the copy could not be written, or is damaged; it is removed.
    """
    part_path = target.with_name(f".{target.name}.{os.getpid()}.part")
    _refuse_existing(target)
    try:
        part_path.touch(mode=0o600, exist_ok=False)
        with translate_sqlite_errors(target):
            _copy_ledger(ledger, part_path, on_progress)
            _check_integrity(part_path)
        part_path.chmod(0o600)
        _link_final_name(part_path, target)
    except OSError as error:
        raise LedgerError(
            f"the backup cannot be written: {error}", "choose a file in a directory that you can write to"
        ) from error
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            part_path.with_name(part_path.name + suffix).unlink(missing_ok=True)
    return target.stat().st_size


def _refuse_existing(target: Path) -> None:
    """Raise RefusedError if `target` exists, even as a dangling link."""
    if target.exists() or target.is_symlink():
        raise RefusedError(
            f"{target} already exists and will not be overwritten", "choose another file, or move this one"
        )


def _copy_ledger(ledger: Path, part_path: Path, on_progress: Callable[[int, int], None]) -> None:
    """Copy the ledger in one read transaction, so that concurrent writes neither wait for the copy nor restart it."""
    source = sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
    with closing(source), closing(sqlite3.connect(part_path)) as copy:
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the first read fixes the snapshot
        source.backup(
            copy, pages=PAGES_PER_STEP, progress=lambda _status, remaining, total: on_progress(total - remaining, total)
        )
        copy.execute("PRAGMA journal_mode = DELETE")  # a single file, readable on a read-only medium


def _check_integrity(part_path: Path) -> None:
    """Raise LedgerError if SQLite finds damage in the copy."""
    with closing(sqlite3.connect(f"{part_path.absolute().as_uri()}?mode=ro", uri=True)) as copy:
        check_result = copy.execute("PRAGMA quick_check(1)").fetchone()[0]  # "ok", or the first problem
    if check_result != "ok":
        raise LedgerError(
            f"the backup is damaged and was deleted: {check_result}",
            "check the ledger itself with `nanoflux run verify RUN`",
        )


def _link_final_name(part_path: Path, target: Path) -> None:
    """Link the finished copy to its final name, unless that name already exists, and flush the
    file and its folder to disk.
    """
    with part_path.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(part_path, target)
    except FileExistsError:
        _refuse_existing(target)
    directory_fd = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
