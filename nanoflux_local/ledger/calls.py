"""Remembered calls: the only way out of a turn. A reply is committed under its request's hash before it is used."""

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from nanoflux_local.errors import EndpointRefusedError, PromptRefusedError, ReplayMissError
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.limiter import Limiter
from nanoflux_local.records import EmbedRequest, Identity, Refusal, Reply, Request, Vector

R = TypeVar("R", bound=Reply)
Answer = Callable[[Any], Awaitable[Reply]]
RECENT = 2048
"""Replies that are kept in memory besides, so that a turn played again reads and parses nothing."""
ROLE: ContextVar[str] = ContextVar("role", default="")
"""The role that calls are made for. No request holds it, since it does not decide the reply; budgets and sums do."""

EARLIER = "earlier"
"""Stands for a role where calls only tell what other runs asked, or what is held out: no turn uses them, and none is
wasted.
"""

TOGETHER = 64
"""Texts that are embedded at once, and share a commit where that is called for."""

FIRST_REFUSED = 3
"""Prompts that an endpoint which has never answered may refuse: from then on it is the endpoint that is at fault, not
what it is asked, and nothing more is remembered as refused.
"""

TRIAL = "trial"
"""Stands for a role where the judge judges what is known: the run's trial uses these calls, and no turn does."""


@contextmanager
def acting_as(role: str) -> Iterator[None]:
    """Calls made inside are this role's, also in the tasks that they start."""
    token = ROLE.set(role)
    try:
        yield
    finally:
        ROLE.reset(token)


class Call(Protocol):
    """What a turn is given to reach the outside with."""

    async def __call__(self, request: Request[R]) -> R:
        """The reply of `request`.

        Raises:
            PromptRefusedError: the endpoint refuses this prompt for good, now or as the ledger remembers.
            EndpointError: no usable reply came.
            RefusedError: a rule forbids the call.
            ReplayMissError: nothing is remembered and nothing may be called.
        """
        ...


async def embed_texts(embedder: Identity, texts: Sequence[str], call: Call) -> AsyncIterator[Vector | None]:
    """The unit vectors of texts that no turn asks, in their order: remembered calls, or made anew. None for a text that
    the embedder refuses.
    """
    for start in range(0, len(texts), TOGETHER):
        part = texts[start : start + TOGETHER]
        with acting_as(EARLIER):
            vectors = await asyncio.gather(*(_vector(EmbedRequest(embedder, text), call) for text in part))
        for vector in vectors:
            yield vector


async def _vector(request: EmbedRequest, call: Call) -> Vector | None:
    try:
        return (await call(request)).vector
    except PromptRefusedError:
        return None


@dataclass(slots=True)
class _Shared:
    """A request under way: its one task, and how many wait for it."""

    task: asyncio.Task[tuple[int, Reply]]
    wanted: int = 0
    sent: bool = False


class RememberedCalls:
    """Answers from the ledger, or asks once and remembers. Equal requests under way share one call.

    `answers` maps a request's kind to what answers it; an empty mapping is a replay, where a miss is an error. `room`
    says how many are under way at once, from their sending until their replies are on disk.
    """

    def __init__(self, ledger: Ledger, run: str, answers: Mapping[str, Answer]) -> None:
        self._ledger = ledger
        self._run = run
        self._answers = answers
        self.limiter = Limiter(math.inf)
        self._under_way: dict[str, _Shared] = {}
        self._recent: OrderedDict[Request[Any], tuple[int, Reply]] = OrderedDict()
        self._waiting: list[tuple[Request[Any], Reply, str, asyncio.Future[tuple[int, Reply]]]] = []
        self._broken: Exception | None = None
        self._answering: set[tuple[str, Identity]] = set()
        self._refused: Counter[tuple[str, Identity]] = Counter()

    async def ask(self, request: Request[R]) -> tuple[int, R]:
        """The call's row id in the ledger, and its reply.

        Raises:
            PromptRefusedError: the endpoint refuses the prompt, now or as the ledger remembers.
        """
        row, reply = await self.settle(request)
        refuse_refusal(reply)
        return row, cast(R, reply)

    async def settle(self, request: Request[Any]) -> tuple[int, Reply]:
        """The call's row id in the ledger, and what it came to: its reply, or a `Refusal`."""
        remembered = self._recent.get(request)  # the committer asks again what a guess asked a moment ago
        if remembered is None:
            remembered = self._ledger.recall(request) or await self._share(request)
            self._recent[request] = remembered
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return remembered

    async def _share(self, request: Request[Any]) -> tuple[int, Reply]:
        """Wait for one task per request: whoever is cancelled while waiting does not end it for the others. What nobody
        waits for any more is not sent; what was sent is remembered.
        """
        key = request.key()
        shared = self._under_way.get(key)
        if shared is None:
            shared = self._under_way[key] = _Shared(asyncio.create_task(self._send(request)))
            shared.task.add_done_callback(lambda done: self._finish(key, done))
        shared.wanted += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.wanted -= 1
            if not shared.wanted and not shared.sent and not shared.task.done():
                del self._under_way[key]
                shared.task.cancel()

    def _finish(self, key: str, task: asyncio.Task[tuple[int, Reply]]) -> None:
        if key in self._under_way and self._under_way[key].task is task:
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
        async with self.limiter:
            if self._broken is not None:  # a reply that cannot be kept is not worth asking for
                raise self._broken
            self._under_way[request.key()].sent = True
            return await self._commit(request, await self._answer(request, answer))

    async def _answer(self, request: Request[Any], answer: Answer) -> Reply:
        """The reply, or the refusal that stands for it.

        Raises:
            EndpointRefusedError: the endpoint has refused everything that it was asked.
        """
        try:
            reply = await answer(request)
        except PromptRefusedError as error:
            self._refuse_hopeless(request, error)
            return Refusal(error.cause, error.detail)
        self._answering.add((request.kind, request.endpoint))
        return reply

    def _refuse_hopeless(self, request: Request[Any], error: PromptRefusedError) -> None:
        """Raise where an endpoint refuses one prompt after the other and has not answered any."""
        model, asked = request.endpoint.model, (request.kind, request.endpoint)
        if asked in self._answering or self._ledger.has_answer(self._run, request.kind, model):
            self._answering.add(asked)
            return
        self._refused[asked] += 1
        if self._refused[asked] >= FIRST_REFUSED:
            raise EndpointRefusedError(
                f"{model} has answered nothing and refuses every prompt: {error.detail}",
                error.fix or "correct the endpoint's settings; then `nanoflux run resume`",
            )

    async def _commit(self, request: Request[Any], reply: Reply) -> tuple[int, Reply]:
        """Wait until the reply is on disk. Replies that came at the same time share one transaction: what a commit
        costs is mostly its wait for the disk, and under load that wait would be paid for each.
        """
        written: asyncio.Future[tuple[int, Reply]] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append((request, reply, ROLE.get(), written))
        return await written

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            stored = self._ledger.remember_all(self._run, [entry[:3] for entry in waiting])
        except Exception as error:  # noqa: BLE001 - whoever waits for the reply raises it
            self._broken = error
            for *_, written in waiting:
                if not written.done():
                    written.set_exception(error)
            return
        for (*_, written), result in zip(waiting, stored, strict=True):
            if not written.done():  # cancelled meanwhile; its reply is remembered all the same
                written.set_result(result)

    async def close(self) -> None:
        """Cancel what is still under way; what has been answered is remembered."""
        tasks = [shared.task for shared in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class TracedCalls:
    """The `Call` of one turn: passes requests on and notes, in order, which remembered calls the turn rests on."""

    def __init__(self, calls: RememberedCalls) -> None:
        self._calls = calls
        self.ids: list[int] = []

    async def __call__(self, request: Request[R]) -> R:
        row, reply = await self._calls.settle(request)
        self.ids.append(row)
        refuse_refusal(reply)
        return cast(R, reply)


def refuse_refusal(reply: Reply) -> None:
    """Raise a refusal that is remembered as the endpoint did when it was asked.

    Raises:
        PromptRefusedError: it is one.
    """
    if isinstance(reply, Refusal):
        raise PromptRefusedError(reply.refused, reply.detail)
