"""The reader: answers questions from the ledger in a thread of its own, so that no screen ever waits for a disk.

Opens the ledger read-only, and again where it was replaced or mended. Says cheaply whether anything has changed.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from nanoflux_local.errors import LedgerError, NanofluxError, NothingMatchedError
from nanoflux_local.ledger.views import LedgerView

T = TypeVar("T")
WAIT_S = 1.0
"""How long a question waits for whoever holds the file; the next look asks again."""


class Reader:
    """One ledger, read by one thread. `ask` runs a function of a `LedgerView` there."""

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._view: LedgerView | None = None
        self._file: tuple[int, int] | None = None

    async def ask(self, question: Callable[[LedgerView], T]) -> T:
        """The answer.

        Raises:
            NothingMatchedError: there is no ledger yet, or it was taken away.
            LedgerError: it cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question)

    async def version(self) -> tuple[object, ...]:
        """What is equal as long as nobody has written; also where there is no ledger."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._version)

    def close(self) -> None:
        """Let go of the file; a question under way is answered first."""
        self._thread.submit(self._let_go)
        self._thread.shutdown(wait=False)

    def _answer(self, question: Callable[[LedgerView], T]) -> T:
        view = self._open()
        try:
            return question(view)
        except NothingMatchedError:
            raise
        except NanofluxError:
            self._let_go()  # mended, or put back, it is read afresh
            raise
        except (ValueError, TypeError, LookupError) as error:
            fix = "find what was damaged with `nanoflux run verify RUN`"
            raise LedgerError(f"{self.ledger}: something in it cannot be read ({error})", fix) from error

    def _open(self) -> LedgerView:
        file = _identity(self.ledger)
        if self._view is None or file != self._file:
            self._let_go()
            if file is None:
                raise NothingMatchedError(f"there is no ledger at {self.ledger} yet", "start a run: press n")
            self._view, self._file = LedgerView(self.ledger, WAIT_S), file
        return self._view

    def _version(self) -> tuple[object, ...]:
        try:
            row = self._open().row("PRAGMA data_version")
            return (self._file, row[0] if row else None)
        except NanofluxError as error:
            return (self._file, str(error))

    def _let_go(self) -> None:
        if self._view is not None:
            with suppress(NanofluxError):
                self._view.__exit__()
        self._view = None


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file this is, or None where there is none."""
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None
