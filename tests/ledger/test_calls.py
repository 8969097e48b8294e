"""Equal requests are sent once and share one call, and a reply is committed before it is returned."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoflux_local.errors import EndpointError, ReplayMissError
from nanoflux_local.ledger.calls import CachedCalls, TracedCalls
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.records import ChatReply, ChatRequest, CutRequest, EmbedRequest, Identity, Message, PythonRequest

ENDPOINT = Identity("scripted", "m")
"""The endpoint of all requests."""


def make_request(text: str = "hello", seed: int = 0) -> ChatRequest:
    """A chat request. Requests with the same text and seed are equal."""
    return ChatRequest(ENDPOINT, (Message("user", text),), seed=seed)


class GatedEndpoint:
    """An endpoint that records its requests, and answers them when its gate is opened: with "reply 1", "reply 2" and so
    on, or by raising `failure`.
    """

    def __init__(self, failure: Exception | None = None) -> None:
        self.requests: list[ChatRequest] = []
        self.gate = asyncio.Event()
        self.failure = failure

    async def __call__(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        number = len(self.requests)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return ChatReply(f"reply {number}", "stop")


MakeCalls = Callable[..., CachedCalls]


@pytest.fixture
def make_calls(ledger: Ledger) -> MakeCalls:
    """A function that makes the `CachedCalls` of a run. Its argument is the function that answers chat requests."""
    return lambda answer: CachedCalls(ledger, "run", {"chat": answer})


async def wait_for_requests(endpoint: GatedEndpoint, count: int = 1) -> None:
    """Wait until the endpoint has received `count` requests."""
    while len(endpoint.requests) < count:
        await asyncio.sleep(0)


async def test_equal_concurrent_requests_share_one_call(make_calls: MakeCalls) -> None:
    endpoint = GatedEndpoint()
    calls = make_calls(endpoint)
    equal_tasks = [asyncio.create_task(calls.ask(make_request())) for _ in range(5)]
    different_task = asyncio.create_task(calls.ask(make_request(seed=1)))
    await wait_for_requests(endpoint, 2)
    endpoint.gate.set()
    replies = await asyncio.gather(*equal_tasks)
    assert replies == [(1, ChatReply("reply 1", "stop"))] * 5
    assert (await different_task)[1].text == "reply 2"
    assert await calls.ask(make_request()) == replies[0]
    assert endpoint.requests == [make_request(), make_request(seed=1)]


async def test_cancelled_waiter_leaves_the_call_to_the_others(make_calls: MakeCalls) -> None:
    endpoint = GatedEndpoint()
    calls = make_calls(endpoint)
    cancelled_task = asyncio.create_task(calls.ask(make_request()))
    remaining_task = asyncio.create_task(calls.ask(make_request()))
    await wait_for_requests(endpoint)
    cancelled_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled_task
    endpoint.gate.set()
    assert (await remaining_task)[1].text == "reply 1"
    assert len(endpoint.requests) == 1


async def test_sent_call_is_remembered_after_its_only_waiter_is_cancelled(
    make_calls: MakeCalls, ledger: Ledger
) -> None:
    endpoint = GatedEndpoint()
    calls = make_calls(endpoint)
    task = asyncio.create_task(calls.ask(make_request()))
    await wait_for_requests(endpoint)
    task.cancel()
    endpoint.gate.set()
    while ledger.recall(make_request()) is None:
        await asyncio.sleep(0)
    assert (await calls.ask(make_request()))[1].text == "reply 1"


async def test_queued_call_is_dropped_once_no_task_waits_for_it(make_calls: MakeCalls) -> None:
    endpoint = GatedEndpoint()
    calls = make_calls(endpoint)
    calls.limiter.resize(1)
    first_task = asyncio.create_task(calls.ask(make_request("first")))
    dropped_task = asyncio.create_task(calls.ask(make_request("dropped")))
    cancelled_waiter = asyncio.create_task(calls.ask(make_request("shared")))
    remaining_waiter = asyncio.create_task(calls.ask(make_request("shared")))
    await wait_for_requests(endpoint)
    for task in (dropped_task, cancelled_waiter):
        task.cancel()
    endpoint.gate.set()
    await asyncio.gather(first_task, remaining_waiter)
    assert dropped_task.cancelled() and endpoint.requests == [make_request("first"), make_request("shared")]
    assert (await calls.ask(make_request("dropped")))[1].text == "reply 3", (
        "a later request for the dropped call was not sent"
    )


async def test_request_is_answered_if_an_equal_one_was_dropped_from_the_queue(make_calls: MakeCalls) -> None:
    endpoint = GatedEndpoint()
    calls = make_calls(endpoint)
    calls.limiter.resize(1)
    first_task = asyncio.create_task(calls.ask(make_request("first")))
    dropped_task = asyncio.create_task(calls.ask(make_request("dropped")))
    await wait_for_requests(endpoint)
    dropped_task.cancel()
    await asyncio.wait([dropped_task])
    repeated_task = asyncio.create_task(calls.ask(make_request("dropped")))
    endpoint.gate.set()
    assert (await first_task)[1].text == "reply 1"
    assert (await repeated_task)[1].text == "reply 2"


async def test_failure_reaches_every_waiter_and_is_not_remembered(make_calls: MakeCalls, ledger: Ledger) -> None:
    endpoint = GatedEndpoint(EndpointError("no reply"))
    endpoint.gate.set()
    calls = make_calls(endpoint)
    errors = await asyncio.gather(*(calls.ask(make_request()) for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in errors] == ["no reply"] * 3
    assert ledger.rows("SELECT count(*) FROM calls") == [(0,)]
    endpoint.failure = None
    assert (await calls.ask(make_request()))[1].text == "reply 2"


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (make_request(), "chat"),
        (EmbedRequest(ENDPOINT, "x"), "embed"),
        (PythonRequest(ENDPOINT, "1"), "python"),
        (CutRequest(ENDPOINT, "x", 1), "cut"),
    ],
)
async def test_replay_miss_error_names_the_kind_and_the_key_of_the_call(ledger: Ledger, request_, kind: str) -> None:
    with pytest.raises(ReplayMissError, match=rf"does not contain a {kind} call .*\(request {request_.key()[:12]}\)"):
        await CachedCalls(ledger, "run", {}).ask(request_)


async def test_reply_is_committed_before_it_is_returned(make_calls: MakeCalls, path: Path) -> None:
    async def answer_at_once(request: ChatRequest) -> ChatReply:
        return ChatReply("x", "stop")

    await make_calls(answer_at_once).ask(make_request())
    with Ledger(path) as second_ledger:  # to SQLite, a second connection is like another process
        assert second_ledger.recall(make_request()) == (1, ChatReply("x", "stop"))


def raise_disk_error(*_: object) -> None:
    """Stands in for `Ledger.remember_all` when the disk fails."""
    raise OSError("disk")


async def test_reply_that_cannot_be_committed_is_not_returned(
    make_calls: MakeCalls, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = GatedEndpoint()
    endpoint.gate.set()
    monkeypatch.setattr(ledger, "remember_all", raise_disk_error)
    with pytest.raises(OSError, match="disk"):
        await make_calls(endpoint).ask(make_request())


async def test_failed_commit_stops_further_calls(
    make_calls: MakeCalls, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = GatedEndpoint()
    endpoint.gate.set()
    calls = make_calls(endpoint)
    first_reply = await calls.ask(make_request("before"))
    with monkeypatch.context() as full_disk:
        full_disk.setattr(ledger, "remember_all", raise_disk_error)
        with pytest.raises(OSError, match="disk"):
            await calls.ask(make_request("reply lost"))
        with pytest.raises(OSError, match="disk"):
            await calls.ask(make_request("never sent"))
    assert [request.messages[0].content for request in endpoint.requests] == ["before", "reply lost"]
    assert await calls.ask(make_request("before")) == first_reply  # a remembered reply is still returned


async def test_reply_stored_first_by_another_process_is_used(make_calls: MakeCalls, path: Path) -> None:
    async def answer_after_another_process(request: ChatRequest) -> ChatReply:
        with Ledger(path) as second_ledger:
            second_ledger.remember("other run", request, ChatReply("theirs", "stop"))
        return ChatReply("ours", "stop")

    _, reply = await make_calls(answer_after_another_process).ask(make_request())
    assert reply.text == "theirs"


async def test_close_cancels_pending_calls_and_leaves_no_task(make_calls: MakeCalls, ledger: Ledger) -> None:
    endpoint = GatedEndpoint()
    calls = make_calls(endpoint)
    task = asyncio.create_task(calls.ask(make_request()))
    await wait_for_requests(endpoint)
    await calls.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert ledger.recall(make_request()) is None


async def test_traced_calls_list_row_ids_in_order_of_use(make_calls: MakeCalls) -> None:
    endpoint = GatedEndpoint()
    endpoint.gate.set()
    calls = make_calls(endpoint)
    await calls.ask(make_request(seed=7))
    trace = TracedCalls(calls)
    for seed in (3, 7, 3):  # the call with seed 7 is the first row of the ledger, the call with seed 3 the second
        assert isinstance(await trace(make_request(seed=seed)), ChatReply)
    assert trace.ids == [2, 1, 2]
