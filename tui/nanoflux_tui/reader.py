"""Reads the ledger in a separate thread, so that no screen waits for a disk.

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
from nanoflux_local.jobs import list_running_work
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home

T = TypeVar("T")
WAIT_S = 1.0
"""Seconds that a query waits while another process has locked the file; the next refresh tries again."""


class LedgerReader:
    """The ledger of a home, read by one thread. `read` calls a function of a `LedgerView` in that thread."""

    def __init__(self, home: Home) -> None:
        self._home, self.ledger = home, home.ledger
        self._executor = ThreadPoolExecutor(1, "ledger")
        self._view: LedgerView | None = None
        self._file: tuple[int, int] | None = None

    async def read(self, query: Callable[[LedgerView], T]) -> T:
        """The result of `query`.

        Raises:
            NothingMatchedError: there is no ledger, or it has been removed.
            LedgerError: the ledger cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, query)

    async def version(self) -> tuple[object, ...]:
        """A value that changes only when a process writes to the ledger or a worker starts or ends, even if it was
        killed. It is also defined if there is no ledger.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read_version)

    def close(self) -> None:
        """Close the file after the query in progress."""
        self._executor.submit(self._close_view)
        self._executor.shutdown(wait=False)

    def _run(self, query: Callable[[LedgerView], T]) -> T:
        view = self._open()
        try:
            return query(view)
        except NothingMatchedError:
            raise
        except NanofluxError:
            self._close_view()  # the next query opens a ledger that was repaired or restored meanwhile
            raise
        except (ValueError, TypeError, LookupError) as error:
            fix = "find the damaged record with `nanoflux run verify RUN`"
            raise LedgerError(f"{self.ledger}: a record cannot be read ({error})", fix) from error

    def _open(self) -> LedgerView:
        file = _identify_file(self.ledger)
        if self._view is None or file != self._file:
            self._close_view()
            if file is None:
                raise NothingMatchedError(f"there is no ledger at {self.ledger} yet", "start a run: press n")
            self._view, self._file = LedgerView(self.ledger, WAIT_S), file
        return self._view

    def _read_version(self) -> tuple[object, ...]:
        try:
            view = self._open()
            row = view.row("PRAGMA data_version")
            return (self._file, row[0] if row else None, *map(str, list_running_work(self._home, view)))
        except NanofluxError as error:
            return (self._file, str(error))

    def _close_view(self) -> None:
        if self._view is not None:
            with suppress(NanofluxError):
                self._view.__exit__()
        self._view = None


def _identify_file(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, or None if it does not exist."""
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None
