"""Remembered calls: the only way in which a turn reaches endpoints and tools. Every reply is committed to the ledger,
under its request's hash, before it is used. A later request with the same hash gets the stored reply.
"""

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
CallIdAndReply = tuple[int, Reply]
"""The row id of a call in the ledger, and its reply."""
Answer = Callable[[Any], Awaitable[Reply]]
"""Sends a request of one kind to its endpoint or tool, and returns the reply."""
MAX_RECENT_REPLIES = 2048
"""The number of replies that are also cached in memory, so that committing a turn does not read and parse them again.
"""
ROLE: ContextVar[str] = ContextVar("role", default="")
"""The role that makes the current calls, to which budgets and summaries attribute their cost. It does not affect the
reply, so it is not part of the request.
"""

EARLIER = "earlier"
"""The role of calls that embed the questions of other runs and held-out items. No turn uses these calls, but they do
not count as wasted.
"""

EMBED_BATCH = 64
"""The number of texts that are embedded concurrently, so that one transaction can commit their replies."""

REFUSALS_UNTIL_ERROR = 3
"""After this many refused prompts, an endpoint that has never answered is considered misconfigured: the run then fails
with an endpoint error.
"""

TRIAL = "trial"
"""The role of the calls of the run's trial, which measures the judge on solutions known to be right or wrong. No turn
uses these calls.
"""


@contextmanager
def acting_as(role: str) -> Iterator[None]:
    """Attribute the calls made in the block, and in tasks started in it, to this role."""
    token = ROLE.set(role)
    try:
        yield
    finally:
        ROLE.reset(token)


class Call(Protocol):
    """Sends a turn's requests."""

    async def __call__(self, request: Request[R]) -> R:
        """The reply to `request`, stored or new.

        Raises:
            PromptRefusedError: the endpoint permanently refuses this prompt, now or in a stored call.
            EndpointError: the endpoint gave no usable reply.
            RefusedError: a rule forbids the call.
            ReplayMissError: the reply is not stored, and a replay calls no endpoint.
        """
        ...


async def embed_texts(embedder: Identity, texts: Sequence[str], call: Call) -> AsyncIterator[Vector | None]:
    """The unit vectors of texts outside any turn, in order; None for a text that the embedder refuses."""
    for start in range(0, len(texts), EMBED_BATCH):
        batch = texts[start : start + EMBED_BATCH]
        with acting_as(EARLIER):
            vectors = await asyncio.gather(*(_embed(EmbedRequest(embedder, text), call) for text in batch))
        for vector in vectors:
            yield vector


async def _embed(request: EmbedRequest, call: Call) -> Vector | None:
    """The unit vector of a text, or None if the embedder refuses it."""
    try:
        return (await call(request)).vector
    except PromptRefusedError:
        return None


@dataclass(slots=True)
class _PendingRequest:
    """A request without a reply yet: the task that sends it, the number of callers that wait for the reply, and whether
    the task has sent it.
    """

    task: asyncio.Task[CallIdAndReply]
    waiters: int = 0
    sent: bool = False


@dataclass(frozen=True, slots=True)
class _UncommittedReply:
    """A reply that is not on disk yet. The future `committed` gets the stored call, or the error of the commit."""

    request: Request[Any]
    reply: Reply
    role: str
    committed: asyncio.Future[CallIdAndReply]


class CachedCalls:
    """Returns replies from the ledger. If the ledger has no reply to a request, sends the request to an endpoint or
    tool and commits the reply. Equal concurrent requests share one call.

    `answers` maps a request's kind to the function that answers it. In a replay the mapping is empty, and a request
    without a stored reply is an error. `limiter` bounds the number of concurrent calls; a call counts from the moment
    its request is sent until its reply is on disk.
    """

    def __init__(self, ledger: Ledger, run: str, answers: Mapping[str, Answer]) -> None:
        self._ledger = ledger
        self._run = run
        self._answers = answers
        self.limiter = Limiter(math.inf)
        self._pending: dict[str, _PendingRequest] = {}
        self._recent: OrderedDict[Request[Any], CallIdAndReply] = OrderedDict()
        self._uncommitted: list[_UncommittedReply] = []
        self._commit_error: Exception | None = None
        # By kind of request and endpoint: whether the endpoint has ever answered, and how many prompts it has refused.
        self._answered: set[tuple[str, Identity]] = set()
        self._refusals: Counter[tuple[str, Identity]] = Counter()

    async def ask(self, request: Request[R]) -> tuple[int, R]:
        """The call's row id in the ledger, and its reply.

        Raises:
            PromptRefusedError: the endpoint refuses the prompt, now or in a stored call.
        """
        call_id, reply = await self.fetch(request)
        raise_refusal(reply)
        return call_id, cast(R, reply)

    async def fetch(self, request: Request[Any]) -> CallIdAndReply:
        """The call's row id in the ledger, and its reply or `Refusal`."""
        stored_call = self._recent.get(request)  # committing a speculative turn repeats its requests
        if stored_call is None:
            stored_call = self._ledger.recall(request) or await self._send_once(request)
            self._recent[request] = stored_call
            if len(self._recent) > MAX_RECENT_REPLIES:
                self._recent.popitem(last=False)
        return stored_call

    async def _send_once(self, request: Request[Any]) -> CallIdAndReply:
        """Wait for the task that sends a request. All callers with an equal request share one task. If a caller is
        cancelled, the task continues for the others. If the last caller is cancelled before the request is sent, the
        task is cancelled too; a request that was already sent is completed, and its reply is stored.
        """
        key = request.key()
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = _PendingRequest(asyncio.create_task(self._send(request)))
            pending.task.add_done_callback(lambda task: self._remove_pending(key, task))
        pending.waiters += 1
        try:
            return await asyncio.shield(pending.task)
        finally:
            pending.waiters -= 1
            if not pending.waiters and not pending.sent and not pending.task.done():
                del self._pending[key]
                pending.task.cancel()

    def _remove_pending(self, key: str, task: asyncio.Task[CallIdAndReply]) -> None:
        """Forget a pending request whose task has ended, unless a newer task already sends the same request."""
        if key in self._pending and self._pending[key].task is task:
            del self._pending[key]
        if not task.cancelled():
            task.exception()  # marks the exception as retrieved, since every waiter may have been cancelled

    async def _send(self, request: Request[Any]) -> CallIdAndReply:
        """Send a request and commit its reply."""
        answer = self._answers.get(request.kind)
        if answer is None:
            raise ReplayMissError(
                f"the ledger does not contain a {request.kind} call that this run needs (request {request.key()[:12]})",
                "replay with the settings of the run, or resume the run, which requests the missing reply",
            )
        async with self.limiter:
            if self._commit_error is not None:  # do not pay for a reply that cannot be stored
                raise self._commit_error
            self._pending[request.key()].sent = True
            reply = await self._answer(request, answer)
            return await self._commit(request, reply)

    async def _answer(self, request: Request[Any], answer: Answer) -> Reply:
        """The endpoint's reply, or its refusal of the prompt.

        Raises:
            EndpointRefusedError: the endpoint has refused every prompt so far.
        """
        try:
            reply = await answer(request)
        except PromptRefusedError as error:
            self._count_refusal(request, error)
            return Refusal(error.cause, error.detail)
        self._answered.add((request.kind, request.endpoint))
        return reply

    def _count_refusal(self, request: Request[Any], error: PromptRefusedError) -> None:
        """Raise EndpointRefusedError if the endpoint has refused `REFUSALS_UNTIL_ERROR` prompts and answered none."""
        model = request.endpoint.model
        source = (request.kind, request.endpoint)
        if source in self._answered or self._ledger.has_answer(self._run, request.kind, model):
            self._answered.add(source)
            return
        self._refusals[source] += 1
        if self._refusals[source] >= REFUSALS_UNTIL_ERROR:
            raise EndpointRefusedError(
                f"{model} has answered nothing and refuses every prompt: {error.detail}",
                error.fix or "correct the endpoint's settings, then resume with `nanoflux run resume`",
            )

    async def _commit(self, request: Request[Any], reply: Reply) -> CallIdAndReply:
        """Store a reply, and return once it is on disk. Replies that arrive together share one transaction, since most
        of a commit's time is spent waiting for the disk.
        """
        committed: asyncio.Future[CallIdAndReply] = asyncio.get_running_loop().create_future()
        if not self._uncommitted:
            asyncio.get_running_loop().call_soon(self._commit_replies)
        self._uncommitted.append(_UncommittedReply(request, reply, ROLE.get(), committed))
        return await committed

    def _commit_replies(self) -> None:
        """Commit the replies that have arrived, in one transaction, and resume the tasks that wait for them."""
        entries, self._uncommitted = self._uncommitted, []
        try:
            calls = [(entry.request, entry.reply, entry.role) for entry in entries]
            stored_calls = self._ledger.remember_all(self._run, calls)
        except Exception as error:  # noqa: BLE001 - raised in every caller that waits for one of the replies
            self._commit_error = error
            for entry in entries:
                if not entry.committed.done():
                    entry.committed.set_exception(error)
            return
        for entry, stored_call in zip(entries, stored_calls, strict=True):
            if not entry.committed.done():  # done means that the caller was cancelled; its reply is stored anyway
                entry.committed.set_result(stored_call)

    async def close(self) -> None:
        """Cancel the pending requests. Replies that have arrived are stored."""
        tasks = [pending.task for pending in self._pending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class TracedCalls:
    """The `Call` of one turn: forwards its requests, and records in `ids` the row ids of the calls that the turn uses,
    in order.
    """

    def __init__(self, calls: CachedCalls) -> None:
        self._calls = calls
        self.ids: list[int] = []

    async def __call__(self, request: Request[R]) -> R:
        call_id, reply = await self._calls.fetch(request)
        self.ids.append(call_id)
        raise_refusal(reply)
        return cast(R, reply)


def raise_refusal(reply: Reply) -> None:
    """Raise PromptRefusedError if `reply` is a stored refusal."""
    if isinstance(reply, Refusal):
        raise PromptRefusedError(reply.refused, reply.detail, "change the prompt, or use another model")
