"""Room: how many may be at something at once, who goes first of those that wait; the number may change at any time."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType

Rank = Callable[[], tuple[int, ...]]
RANK: ContextVar[Rank] = ContextVar("rank", default=lambda: ())
"""Where the one who asks stands among those that wait: the smallest goes first, of equals who came first. It is asked
for on arrival, and again when `Room.reorder` is called. Who says nothing goes before all.
"""


class Room:
    """`async with room:` waits until fewer than `limit` are inside."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.busy = 0
        self._waiting: list[tuple[tuple[int, ...], int, Rank, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @property
    def load(self) -> float:
        """Those inside and those that wait, by the width."""
        return (self.busy + len(self._waiting)) / self.limit

    def resize(self, limit: float) -> None:
        self.limit = limit
        self._admit()

    def reorder(self) -> None:
        """Ask all that wait for their rank again."""
        self._waiting = [(rank(), arrival, rank, mine) for _, arrival, rank, mine in self._waiting]
        heapq.heapify(self._waiting)

    async def __aenter__(self) -> None:
        if self.busy >= self.limit or self._waiting:
            await self._turn()
        else:
            self.busy += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    async def _turn(self) -> None:
        """Wait for a place; whoever leaves gives it on, so that nobody overtakes."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rank = RANK.get()
        heapq.heappush(self._waiting, (rank(), next(self._arrivals), rank, mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave()  # the place came in the same moment
            else:
                self._waiting = [entry for entry in self._waiting if entry[-1] is not mine]
                heapq.heapify(self._waiting)
            raise

    def _leave(self) -> None:
        self.busy -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.busy < self.limit:
            first = heapq.heappop(self._waiting)[-1]
            if not first.done():
                self.busy += 1
                first.set_result(None)
