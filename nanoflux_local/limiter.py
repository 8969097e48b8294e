"""Limits how many tasks run a section of code concurrently, and queues the other tasks by rank. The limit may change at
any time.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import NamedTuple

Rank = Callable[[], tuple[int, ...]]
"""A function that computes the rank of a task."""
RANK: ContextVar[Rank] = ContextVar("rank", default=lambda: ())
"""Computes the current task's rank in the queue: the task with the smallest rank is admitted first, tasks with equal
ranks in order of arrival. The rank is computed on arrival and again by `Limiter.reorder`. A task without a rank is
admitted before all others.
"""


class _Waiter(NamedTuple):
    """A waiting task. Waiters are ordered by rank, then by `arrival`, a number that is unique. `admitted` is done when
    the task may proceed.
    """

    rank: tuple[int, ...]
    arrival: int
    compute_rank: Rank
    admitted: asyncio.Future[None]


class Limiter:
    """Admits tasks to a section of code: `async with limiter:` waits until fewer than `limit` tasks are inside.

    `limit` may be infinite or a fraction; `busy` is the number of tasks inside.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.busy = 0
        self._waiting: list[_Waiter] = []  # a heap
        self._arrivals = itertools.count()

    @property
    def load(self) -> float:
        """The number of tasks inside or waiting, divided by the limit."""
        return (self.busy + len(self._waiting)) / self.limit

    def resize(self, limit: float) -> None:
        """Change the limit, and admit the tasks that may now proceed."""
        self.limit = limit
        self._admit()

    def reorder(self) -> None:
        """Compute the ranks of all waiting tasks again."""
        self._waiting = [waiter._replace(rank=waiter.compute_rank()) for waiter in self._waiting]
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
        """Wait for a slot. A leaving task hands its slot to the first task in the queue, so that no later task
        overtakes that task.
        """
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        compute_rank = RANK.get()
        heapq.heappush(self._waiting, _Waiter(compute_rank(), next(self._arrivals), compute_rank, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._leave()  # this task was admitted just before it was cancelled
            else:
                self._waiting = [waiter for waiter in self._waiting if waiter.admitted is not admitted]
                heapq.heapify(self._waiting)
            raise

    def _leave(self) -> None:
        """Free the slot of one task, and admit the next waiting task."""
        self.busy -= 1
        self._admit()

    def _admit(self) -> None:
        """Admit waiting tasks while there are free slots."""
        while self._waiting and self.busy < self.limit:
            admitted = heapq.heappop(self._waiting).admitted
            if not admitted.done():  # the future of a cancelled task is done
                self.busy += 1
                admitted.set_result(None)
