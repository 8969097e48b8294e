"""Endpoints that share a GPU take turns, with few swaps; failed and cancelled requests do not block others. A wave is
the time in which one endpoint is awake.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.endpoints import build
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.kinds.scripted import ScriptedKind
from nanoflux_local.endpoints.managed.waves import TimeShared, take_turns
from nanoflux_local.endpoints.scripted import ScriptedEndpoint
from nanoflux_local.errors import ConfigError, EndpointError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatRequest, Message, Sampling
from nanoflux_local.run import configs, runs


class SleepingEndpoint(ScriptedEndpoint):
    """A scripted endpoint that accepts requests only while it is awake, and cannot wake while `broken` is true."""

    def __init__(self, model: str, delay_s: float = 0.0) -> None:
        super().__init__(model, delay_s)
        self.awake = False
        self.requests = 0
        self.broken = False

    async def sleep(self) -> None:
        await asyncio.sleep(0)
        self.awake = False

    async def wake(self) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("out of memory")
        self.awake = True

    async def chat(self, request: ChatRequest) -> Any:
        assert self.awake, "the endpoint got a request while it slept"
        self.requests += 1
        reply = await super().chat(request)
        assert self.awake, "the endpoint was put to sleep with a request in flight"
        return reply


def make_time_shared_pair() -> tuple[dict[str, TimeShared], list[SleepingEndpoint]]:
    """Two time-shared endpoints, by name, and the endpoints that they wrap."""
    inner_endpoints = {name: SleepingEndpoint(name, delay_s=0.001) for name in ("a", "b")}
    endpoints = take_turns(inner_endpoints, {"a": "gpu0", "b": "gpu0"}, linger_s=0.001)
    time_shared = {name: endpoint for name, endpoint in endpoints.items() if isinstance(endpoint, TimeShared)}
    return time_shared, list(inner_endpoints.values())


def send_request(endpoint: Endpoint, number: int = 0) -> Any:
    """Send a request whose seed is `number`."""
    return endpoint.chat(ChatRequest(endpoint.identity, (Message("user", "QUESTION:"),), Sampling(), number))


def test_wave_answers_all_waiting_requests_of_its_endpoint() -> None:
    async def send_requests() -> int:
        time_shared, endpoints = make_time_shared_pair()
        await asyncio.gather(*(send_request(time_shared[name], number) for number in range(20) for name in ("a", "b")))
        assert [endpoint.requests for endpoint in endpoints] == [20, 20]
        assert [endpoint.awake for endpoint in endpoints] == [False, True], (
            "expected only the second endpoint to be awake"
        )
        return time_shared["a"].gpu.swaps

    assert asyncio.run(send_requests()) == 2


def test_endpoint_that_cannot_wake_fails_only_its_requests() -> None:
    async def send_requests() -> None:
        time_shared, (failing_endpoint, _) = make_time_shared_pair()
        failing_endpoint.broken = True
        requests = [send_request(time_shared["a"]), send_request(time_shared["b"])]
        error, reply = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 30)
        assert isinstance(error, EndpointError) and "out of memory" in str(error)
        assert reply.text
        failing_endpoint.broken = False
        assert (await send_request(time_shared["a"])).text

    asyncio.run(send_requests())


def test_cancelled_requests_leave_no_wave_open() -> None:
    async def send_requests() -> None:
        time_shared, _ = make_time_shared_pair()
        for steps in range(12):  # cancels the requests after this many steps of the event loop
            tasks = [asyncio.create_task(send_request(time_shared[name], steps)) for name in ("a", "b", "a")]
            for _ in range(steps):
                await asyncio.sleep(0)
            tasks[0].cancel()
            tasks[1].cancel()
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert (await asyncio.wait_for(send_request(time_shared["b"]), 30)).text

    asyncio.run(send_requests())


def test_close_fails_waiting_requests() -> None:
    async def send_requests() -> None:
        time_shared, _ = make_time_shared_pair()
        task = asyncio.create_task(send_request(time_shared["a"]))
        await asyncio.sleep(0)
        await time_shared["a"].close()
        with pytest.raises(EndpointError, match="closed"):
            await task

    asyncio.run(send_requests())


def test_endpoint_without_sleep_mode_cannot_share_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"endpoints\.a\.shares"):
        take_turns({"a": ScriptedEndpoint("a")}, {"a": "gpu0"})


@pytest.fixture
def time_shared_endpoints(monkeypatch: pytest.MonkeyPatch) -> list[TimeShared]:
    """Give the scripted endpoints of a profile a sleep mode, and collect those that share a GPU."""
    collected_endpoints: list[TimeShared] = []

    def take_turns_and_collect(endpoints: Any, groups: Any) -> dict[str, Endpoint]:
        endpoint_by_name = take_turns(endpoints, groups, linger_s=0.001)
        collected_endpoints.extend(
            endpoint for endpoint in endpoint_by_name.values() if isinstance(endpoint, TimeShared)
        )
        return endpoint_by_name

    monkeypatch.setattr(ScriptedKind, "build", lambda _kind, _name, config, _home: SleepingEndpoint(config.model))
    monkeypatch.setattr(build, "take_turns", take_turns_and_collect)
    return collected_endpoints


def execute_run(root: Path, **settings: Any) -> dict[str, Any]:
    """Execute a run of 40 turns in the home at `root`; return its summary as JSON."""
    home = Home(root).prepare()
    config = configs.resolve("starter-genetics", "scripted", {"max_turns": 40, **settings}, home)
    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.execute(home, run))
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).to_json()


def test_waves_do_not_change_the_dataset_and_need_few_swaps(
    tmp_path: Path, time_shared_endpoints: list[TimeShared], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"endpoints": {name: {"shares": "gpu0"} for name in ("duelist-a", "duelist-b", "arbiter")}}
    summary_by_concurrency = {
        concurrency: execute_run(tmp_path / str(concurrency), concurrency=concurrency, **settings)
        for concurrency in (1, 32)
    }
    swaps = time_shared_endpoints[-1].gpu.swaps
    monkeypatch.undo()
    unshared_summary = execute_run(tmp_path / "unshared", concurrency=8)
    assert summary_by_concurrency[1]["digest"] == summary_by_concurrency[32]["digest"] == unshared_summary["digest"]
    assert 0 < swaps < summary_by_concurrency[32]["calls"]["made"] / 4
