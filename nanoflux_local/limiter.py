"""Limits how many tasks run a section of code concurrently, and orders those that wait. The limit may change at any
time.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType

Rank = Callable[[], tuple[int, ...]]
RANK: ContextVar[Rank] = ContextVar("rank", default=lambda: ())
"""The rank of the current task in the queue: the smallest is admitted first, equal ranks in order of arrival. The rank
is computed on arrival and again by `Limiter.reorder`. A task without a rank is admitted before all others.
"""


class Limiter:
    """`async with limiter:` waits until fewer than `limit` tasks are inside."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.busy = 0
        self._waiting: list[tuple[tuple[int, ...], int, Rank, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @property
    def load(self) -> float:
        """Tasks inside and waiting, as a share of the limit."""
        return (self.busy + len(self._waiting)) / self.limit

    def resize(self, limit: float) -> None:
        self.limit = limit
        self._admit()

    def reorder(self) -> None:
        """Compute the ranks of all waiting tasks again."""
        self._waiting = [(rank(), arrival, rank, admitted) for _, arrival, rank, admitted in self._waiting]
        heapq.heapify(self._waiting)

    async def __aenter__(self) -> None:
        if self.busy >= self.limit or self._waiting:
            await self._wait_in_queue()
        else:
            self.busy += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    async def _wait_in_queue(self) -> None:
        """Wait for a slot; a leaving task hands its slot to the next one, so that no later task overtakes."""
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rank = RANK.get()
        heapq.heappush(self._waiting, (rank(), next(self._arrivals), rank, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._leave()  # the slot was assigned in the same moment
            else:
                self._waiting = [entry for entry in self._waiting if entry[-1] is not admitted]
                heapq.heapify(self._waiting)
            raise

    def _leave(self) -> None:
        self.busy -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.busy < self.limit:
            next_admitted = heapq.heappop(self._waiting)[-1]
            if not next_admitted.done():
                self.busy += 1
                next_admitted.set_result(None)
