"""Room: how many may be at something at once, who goes first of those that wait; the number may change at any time."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType

Rank = Callable[[], tuple[int, ...]]
RANK: ContextVar[Rank] = ContextVar("rank", default=lambda: ())
"""Where the one who asks stands among those that wait, at the time when a place is free: the smallest goes first, of
equals who came first. Who says nothing goes before all.
"""


class Room:
    """`async with room:` waits until fewer than `limit` are inside."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.busy = 0
        self._waiting: list[tuple[Rank, asyncio.Future[None]]] = []

    @property
    def load(self) -> float:
        """Those inside and those that wait, by the width."""
        return (self.busy + len(self._waiting)) / self.limit

    def resize(self, limit: float) -> None:
        self.limit = limit
        self._admit()

    async def __aenter__(self) -> None:
        if self.busy >= self.limit or self._waiting:
            await self._turn()
        else:
            self.busy += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._leave()

    async def _turn(self) -> None:
        """Wait for a place; whoever leaves gives it on, so that nobody overtakes."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (RANK.get(), mine)
        self._waiting.append(entry)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave()  # the place came in the same moment
            else:
                with suppress(ValueError):  # `_admit` has passed it over already
                    self._waiting.remove(entry)
            raise

    def _leave(self) -> None:
        self.busy -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.busy < self.limit:
            first = min(self._waiting, key=lambda entry: entry[0]())
            self._waiting.remove(first)
            if not first[1].done():
                self.busy += 1
                first[1].set_result(None)
