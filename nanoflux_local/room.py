"""Room: how many may be at something at once; who came first goes first, and the number may change at any time."""

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType


class Room:
    """`async with room:` waits until fewer than `limit` are inside."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

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
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._leave()  # the place came in the same moment
            else:
                with suppress(ValueError):  # `_admit` has passed it over already
                    self._waiting.remove(mine)
            raise

    def _leave(self) -> None:
        self.busy -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.busy < self.limit:
            waiting = self._waiting.popleft()
            if not waiting.done():
                self.busy += 1
                waiting.set_result(None)
