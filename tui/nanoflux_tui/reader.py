"""Reads the ledger in a separate thread, so that the application responds to keys while a query waits for the disk.

The reader opens the ledger read-only, reopens it after it was replaced or repaired, and detects at low cost whether
the ledger or its workers have changed.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from nanoflux_local.errors import LedgerError, NanofluxError, NothingMatchedError
from nanoflux_local.jobs import list_running_jobs
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

T = TypeVar("T")
WAIT_S = 1.0
"""Seconds that a query waits for a locked ledger before it fails; the next refresh runs the query again."""


class LedgerReader:
    """Reads the ledger of a home in one thread. `read` calls a function in that thread, with a `LedgerView`."""

    def __init__(self, home: Home) -> None:
        self._home, self.ledger = home, home.ledger
        self._executor = ThreadPoolExecutor(1, "ledger")
        self._view: LedgerView | None = None
        self._file_id: tuple[int, int] | None = None

    async def read(self, query: Callable[[LedgerView], T]) -> T:
        """The result of `query`, which is called in the reader's thread.

        Raises:
            NothingMatchedError: there is no ledger, or it has been removed.
            LedgerError: the ledger cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run_query, query)

    async def read_version(self) -> tuple[object, ...]:
        """A value that changes only when a process writes to the ledger, or when a worker starts, ends or is killed. If
        the ledger is missing or cannot be read, the error is not raised but becomes part of the value.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._compute_version)

    def close(self) -> None:
        """Close the ledger once the query in progress has ended."""
        self._executor.submit(self._close_view)
        self._executor.shutdown(wait=False)

    def _run_query(self, query: Callable[[LedgerView], T]) -> T:
        """The result of `query`; a record that cannot be read raises a LedgerError."""
        view = self._open_view()
        try:
            return query(view)
        except NothingMatchedError:
            raise
        except NanofluxError:
            self._close_view()  # so that the next query reopens the ledger, which may have been repaired by then
            raise
        except (ValueError, TypeError, LookupError) as error:
            fix = "find the damaged record with `nanoflux run verify RUN`"
            raise LedgerError(f"{self.ledger}: a record cannot be read ({error})", fix) from error

    def _open_view(self) -> LedgerView:
        """The open ledger. A ledger whose file was replaced is opened again."""
        file_id = _read_file_id(self.ledger)
        if self._view is None or file_id != self._file_id:
            self._close_view()
            if file_id is None:
                raise NothingMatchedError(f"there is no ledger at {self.ledger} yet", "start a run: press n")
            self._view, self._file_id = LedgerView(self.ledger, WAIT_S), file_id
        return self._view

    def _compute_version(self) -> tuple[object, ...]:
        """The value that `read_version` returns."""
        try:
            view = self._open_view()
            row = view.row("PRAGMA data_version")
            data_version = row[0] if row else None
            running_jobs = [str(job) for job in list_running_jobs(self._home, view)]
            return (self._file_id, data_version, *running_jobs)
        except NanofluxError as error:
            return (self._file_id, str(error))

    def _close_view(self) -> None:
        if self._view is not None:
            with suppress(NanofluxError):
                self._view.__exit__()
        self._view = None


def _read_file_id(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, or None if it does not exist."""
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None
