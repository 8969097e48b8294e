"""Remembered calls: asked once, shared while under way, committed before anyone sees the reply."""

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
    """An endpoint that answers when told to, and counts how often it was asked."""

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


async def test_equal_requests_under_way_share_one_call(remember: Remember) -> None:
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


async def test_whoever_is_cancelled_while_waiting_ends_nothing_for_the_others(remember: Remember) -> None:
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


async def test_a_call_whose_only_waiter_is_cancelled_is_remembered_all_the_same(
    remember: Remember, ledger: Ledger
) -> None:
    slow = Slow()
    calls = remember(slow)
    waiting = asyncio.create_task(calls.ask(chat()))
    await until_asked(slow)
    waiting.cancel()
    slow.gate.set()
    while ledger.recall(chat()) is None:
        await asyncio.sleep(0)
    assert (await calls.ask(chat()))[1].text == "reply 1"


async def test_what_nobody_waits_for_any_more_is_not_sent(remember: Remember) -> None:
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
    assert (await calls.ask(chat("dropped")))[1].text == "reply 3", "who asks for it again gets it"


async def test_who_asks_as_another_gives_up_is_answered(remember: Remember) -> None:
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


async def test_a_failure_reaches_everyone_and_is_not_remembered(remember: Remember, ledger: Ledger) -> None:
    slow = Slow(EndpointError("no luck"))
    slow.gate.set()
    calls = remember(slow)
    found = await asyncio.gather(*(calls.ask(chat()) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in found] == ["no luck"] * 3
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
async def test_a_replay_that_misses_says_what_it_missed(ledger: Ledger, request_, kind: str) -> None:
    with pytest.raises(ReplayMissError, match=f"does not remember a {kind} call .*{request_.key()[:12]}"):
        await RememberedCalls(ledger, "run", {}).ask(request_)


async def test_a_reply_is_committed_before_anyone_has_it(remember: Remember, path: Path) -> None:
    async def answer(request: ChatRequest) -> ChatReply:
        return ChatReply("x", "stop")

    await remember(answer).ask(chat())
    with Ledger(path) as another:  # another process, as far as SQLite can tell
        assert another.recall(chat()) == (1, ChatReply("x", "stop"))


async def test_no_reply_is_given_out_that_could_not_be_committed(
    remember: Remember, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    slow.gate.set()
    monkeypatch.setattr(ledger, "remember_all", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        await remember(slow).ask(chat())


async def test_nothing_more_is_asked_once_a_reply_could_not_be_kept(
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
    assert await calls.ask(chat("before")) == kept  # what is remembered is still given


async def test_a_reply_that_another_process_stored_first_is_the_one_that_is_used(
    remember: Remember, path: Path
) -> None:
    async def answer(request: ChatRequest) -> ChatReply:
        with Ledger(path) as another:
            another.remember("other run", request, ChatReply("theirs", "stop"))
        return ChatReply("ours", "stop")

    assert (await remember(answer).ask(chat()))[1].text == "theirs"


async def test_closing_cancels_what_is_under_way_and_leaves_no_task(remember: Remember, ledger: Ledger) -> None:
    slow = Slow()
    calls = remember(slow)
    waiting = asyncio.create_task(calls.ask(chat()))
    await until_asked(slow)
    await calls.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert ledger.recall(chat()) is None


async def test_a_turns_calls_are_noted_in_the_order_in_which_it_used_them(remember: Remember) -> None:
    slow = Slow()
    slow.gate.set()
    calls = remember(slow)
    await calls.ask(chat(seed=7))
    trace = TracedCalls(calls)
    for seed in (3, 7, 3):
        assert isinstance(await trace(chat(seed=seed)), ChatReply)
    assert trace.ids == [2, 1, 2]
