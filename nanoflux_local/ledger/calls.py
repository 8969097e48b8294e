"""Remembered calls: the only way out of a turn. A reply is committed under its request's hash before it is used."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar, cast

from nanoflux_local.errors import ReplayMissError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.records import Reply, Request

R = TypeVar("R", bound=Reply)
Answer = Callable[[Any], Awaitable[Reply]]


class Call(Protocol):
    """What a turn is given to reach the outside with."""

    async def __call__(self, request: Request[R]) -> R:
        """The reply of `request`.

        Raises:
            EndpointError: no usable reply came.
            RefusedError: a rule forbids the call.
            ReplayMissError: nothing is remembered and nothing may be called.
        """
        ...


class RememberedCalls:
    """Answers from the ledger, or asks once and remembers. Equal requests under way share one call.

    `answers` maps a request's kind to what answers it; an empty mapping is a replay, where a miss is an error.
    """

    def __init__(self, ledger: Ledger, run: str, answers: Mapping[str, Answer]) -> None:
        self._ledger = ledger
        self._run = run
        self._answers = answers
        self._under_way: dict[str, asyncio.Task[tuple[int, Reply]]] = {}

    async def ask(self, request: Request[R]) -> tuple[int, R]:
        """The call's row id in the ledger, and its reply."""
        remembered = self._ledger.recall(request)
        if remembered is None:
            remembered = await self._share(request)
        return cast(tuple[int, R], remembered)

    async def _share(self, request: Request[Any]) -> tuple[int, Reply]:
        """Wait for one task per request: whoever is cancelled while waiting does not end it for the others."""
        key = request.key()
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._send(request))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(task)

    def _finish(self, key: str, task: asyncio.Task[tuple[int, Reply]]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # marks it as seen: everyone who waited may have been cancelled

    async def _send(self, request: Request[Any]) -> tuple[int, Reply]:
        answer = self._answers.get(request.kind)
        if answer is None:
            raise ReplayMissError(
                f"the ledger does not remember a {request.kind} call that this run needs ({request.key()[:12]})",
                "replay with the settings of the run, or resume it with its endpoints",
            )
        return self._ledger.remember(self._run, request, await answer(request))

    async def close(self) -> None:
        """Cancel what is still under way; what has been answered is remembered."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class TracedCalls:
    """The `Call` of one turn: passes requests on and notes, in order, which remembered calls the turn rests on."""

    def __init__(self, calls: RememberedCalls) -> None:
        self._calls = calls
        self.ids: list[int] = []

    async def __call__(self, request: Request[R]) -> R:
        row, reply = await self._calls.ask(request)
        self.ids.append(row)
        return reply
