"""Remembered calls: sent once, shared while pending, committed before the reply is returned."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.errors import EndpointError, ReplayMissError
from nanoflux_local.ledger.calls import RememberedCalls, TracedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.records import ChatReply, ChatRequest, CutRequest, EmbedRequest, Identity, Message, PythonRequest

WHO = Identity("scripted", "m")


def chat(text: str = "hello", seed: int = 0) -> ChatRequest:
    return ChatRequest(WHO, (Message("user", text),), seed=seed)


class Slow:
    """An endpoint that answers once its gate is open, and records its requests."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[ChatRequest] = []
        self.gate = asyncio.Event()
        self.failure = failure

    async def __call__(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request)
        number = len(self.asked)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return ChatReply(f"reply {number}", "stop")


Remember = Callable[..., RememberedCalls]


@pytest.fixture
def remember(ledger: Ledger) -> Remember:
    return lambda answer: RememberedCalls(ledger, "run", {"chat": answer})


async def until_asked(slow: Slow, times: int = 1) -> None:
    while len(slow.asked) < times:
        await asyncio.sleep(0)


async def test_equal_concurrent_requests_share_one_call(remember: Remember) -> None:
    slow = Slow()
    calls = remember(slow)
    waiting = [asyncio.create_task(calls.ask(chat())) for _ in range(5)]
    other = asyncio.create_task(calls.ask(chat(seed=1)))
    await until_asked(slow, 2)
    slow.gate.set()
    replies = await asyncio.gather(*waiting)
    assert replies == [(1, ChatReply("reply 1", "stop"))] * 5
    assert (await other)[1].text == "reply 2"
    assert await calls.ask(chat()) == replies[0]
    assert slow.asked == [chat(), chat(seed=1)]


async def test_cancelled_waiter_leaves_the_call_to_the_others(remember: Remember) -> None:
    slow = Slow()
    calls = remember(slow)
    first, second = (asyncio.create_task(calls.ask(chat())) for _ in range(2))
    await until_asked(slow)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    slow.gate.set()
    assert (await second)[1].text == "reply 1"
    assert len(slow.asked) == 1


async def test_sent_call_is_remembered_after_its_only_waiter_is_cancelled(remember: Remember, ledger: Ledger) -> None:
    slow = Slow()
    calls = remember(slow)
    waiting = asyncio.create_task(calls.ask(chat()))
    await until_asked(slow)
    waiting.cancel()
    slow.gate.set()
    while ledger.recall(chat()) is None:
        await asyncio.sleep(0)
    assert (await calls.ask(chat()))[1].text == "reply 1"


async def test_unsent_call_without_waiters_is_dropped(remember: Remember) -> None:
    slow = Slow()
    calls = remember(slow)
    calls.limiter.resize(1)
    first, dropped, shared, kept = (
        asyncio.create_task(calls.ask(chat(text))) for text in ("first", "dropped", "shared", "shared")
    )
    await until_asked(slow)
    for task in (dropped, shared):
        task.cancel()
    slow.gate.set()
    await asyncio.gather(first, kept)
    assert dropped.cancelled() and slow.asked == [chat("first"), chat("shared")]
    assert (await calls.ask(chat("dropped")))[1].text == "reply 3", "a later request is sent"


async def test_request_repeated_after_a_dropped_call_is_answered(remember: Remember) -> None:
    slow = Slow()
    calls = remember(slow)
    calls.limiter.resize(1)
    first, dropped = (asyncio.create_task(calls.ask(chat(text))) for text in ("first", "dropped"))
    await until_asked(slow)
    dropped.cancel()
    await asyncio.wait([dropped])
    again = asyncio.create_task(calls.ask(chat("dropped")))
    slow.gate.set()
    assert (await again)[1].text == "reply 2" and (await first)[1].text == "reply 1"


async def test_failure_reaches_every_waiter_and_is_not_remembered(remember: Remember, ledger: Ledger) -> None:
    slow = Slow(EndpointError("no luck"))
    slow.gate.set()
    calls = remember(slow)
    errors = await asyncio.gather(*(calls.ask(chat()) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in errors] == ["no luck"] * 3
    assert ledger.rows("SELECT count(*) FROM calls") == [(0,)]
    slow.failure = None
    assert (await calls.ask(chat()))[1].text == "reply 2"


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (chat(), "chat"),
        (EmbedRequest(WHO, "x"), "embed"),
        (PythonRequest(WHO, "1"), "python"),
        (CutRequest(WHO, "x", 1), "cut"),
    ],
)
async def test_replay_miss_names_the_kind_and_the_key(ledger: Ledger, request_, kind: str) -> None:
    with pytest.raises(ReplayMissError, match=f"does not remember a {kind} call .*{request_.key()[:12]}"):
        await RememberedCalls(ledger, "run", {}).ask(request_)


async def test_reply_is_committed_before_it_is_returned(remember: Remember, path: Path) -> None:
    async def answer(request: ChatRequest) -> ChatReply:
        return ChatReply("x", "stop")

    await remember(answer).ask(chat())
    with Ledger(path) as another:  # like another process, to SQLite
        assert another.recall(chat()) == (1, ChatReply("x", "stop"))


async def test_uncommitted_reply_is_not_returned(
    remember: Remember, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    slow.gate.set()
    monkeypatch.setattr(ledger, "remember_all", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        await remember(slow).ask(chat())


async def test_failed_commit_stops_further_calls(
    remember: Remember, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    slow.gate.set()
    calls = remember(slow)
    kept = await calls.ask(chat("before"))
    with monkeypatch.context() as full:
        full.setattr(ledger, "remember_all", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            await calls.ask(chat("lost"))
        with pytest.raises(OSError, match="disk"):
            await calls.ask(chat("never sent"))
    assert [request.messages[0].content for request in slow.asked] == ["before", "lost"]
    assert await calls.ask(chat("before")) == kept  # a remembered reply is still returned


async def test_reply_stored_first_by_another_process_is_used(remember: Remember, path: Path) -> None:
    async def answer(request: ChatRequest) -> ChatReply:
        with Ledger(path) as another:
            another.remember("other run", request, ChatReply("theirs", "stop"))
        return ChatReply("ours", "stop")

    assert (await remember(answer).ask(chat()))[1].text == "theirs"


async def test_close_cancels_pending_calls_and_leaves_no_task(remember: Remember, ledger: Ledger) -> None:
    slow = Slow()
    calls = remember(slow)
    waiting = asyncio.create_task(calls.ask(chat()))
    await until_asked(slow)
    await calls.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert ledger.recall(chat()) is None


async def test_traced_calls_are_listed_in_order_of_use(remember: Remember) -> None:
    slow = Slow()
    slow.gate.set()
    calls = remember(slow)
    await calls.ask(chat(seed=7))
    trace = TracedCalls(calls)
    for seed in (3, 7, 3):
        assert isinstance(await trace(chat(seed=seed)), ChatReply)
    assert trace.ids == [2, 1, 2]
