"""Waves: one endpoint of a group is awake at a time, swaps are few, and failed or cancelled requests block none."""

import asyncio
from collections.abc import Iterator
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


class Sleepy(ScriptedEndpoint):
    """A scripted endpoint that must be awake to be asked."""

    def __init__(self, model: str, delay_s: float = 0.0) -> None:
        super().__init__(model, delay_s)
        self.awake, self.asked, self.broken = False, 0, False

    async def sleep(self) -> None:
        await asyncio.sleep(0)
        self.awake = False

    async def wake(self) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise OSError("out of memory")
        self.awake = True

    async def chat(self, request: ChatRequest) -> Any:
        assert self.awake, "asked while it sleeps"
        self.asked += 1
        reply = await super().chat(request)
        assert self.awake, "put to sleep with a request in flight"
        return reply


def pair() -> tuple[dict[str, TimeShared], list[Sleepy]]:
    inner = [Sleepy("a", 0.001), Sleepy("b", 0.001)]
    shared = take_turns({each.identity.model: each for each in inner}, {"a": "gpu0", "b": "gpu0"}, 0.001)
    return {name: each for name, each in shared.items() if isinstance(each, TimeShared)}, inner


def ask(endpoint: Endpoint, number: int = 0) -> Any:
    return endpoint.chat(ChatRequest(endpoint.identity, (Message("user", "QUESTION:"),), Sampling(), number))


def test_wave_answers_all_waiting_requests() -> None:
    async def play() -> int:
        shared, inner = pair()
        await asyncio.gather(*(ask(shared[name], number) for number in range(20) for name in ("a", "b")))
        assert [each.asked for each in inner] == [20, 20] and [each.awake for each in inner] == [False, True]
        return shared["a"].gpu.swaps

    assert asyncio.run(play()) == 2


def test_model_that_cannot_wake_fails_its_own_requests_and_no_others() -> None:
    async def play() -> None:
        shared, (broken, _) = pair()
        broken.broken = True
        both = [ask(shared["a"]), ask(shared["b"])]
        failed, answered = await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), 30)
        assert isinstance(failed, EndpointError) and "out of memory" in str(failed)
        assert answered.text
        broken.broken = False
        assert (await ask(shared["a"])).text

    asyncio.run(play())


def test_cancelled_requests_leave_no_wave_open() -> None:
    async def play() -> None:
        shared, _ = pair()
        for steps in range(12):  # at every point of a wave's life
            tasks = [asyncio.create_task(ask(shared[name], steps)) for name in ("a", "b", "a")]
            for _ in range(steps):
                await asyncio.sleep(0)
            tasks[0].cancel()
            tasks[1].cancel()
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert (await asyncio.wait_for(ask(shared["b"]), 30)).text

    asyncio.run(play())


def test_close_ends_waiting_requests() -> None:
    async def play() -> None:
        shared, _ = pair()
        task = asyncio.create_task(ask(shared["a"]))
        await asyncio.sleep(0)
        await shared["a"].close()
        with pytest.raises(EndpointError, match="closed"):
            await task

    asyncio.run(play())


def test_endpoint_without_sleep_mode_cannot_share_a_gpu() -> None:
    with pytest.raises(ConfigError, match=r"endpoints\.a\.shares"):
        take_turns({"a": ScriptedEndpoint("a")}, {"a": "gpu0"})


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TimeShared]]:
    """Make the scripted endpoints of a profile able to sleep; collect the wrapped ones."""
    made: list[TimeShared] = []

    def wrap(endpoints: Any, shares: Any) -> dict[str, Endpoint]:
        shared = take_turns(endpoints, shares, 0.001)
        made.extend(each for each in shared.values() if isinstance(each, TimeShared))
        return shared

    monkeypatch.setattr(ScriptedKind, "build", lambda _kind, _name, config, _home: Sleepy(config.model))
    monkeypatch.setattr(build, "take_turns", wrap)
    return iter([made])


def play(root: Path, **settings: Any) -> dict[str, Any]:
    home = Home(root).prepare()
    config = configs.resolve("starter-genetics", "scripted", {"max_turns": 40, **settings}, home)

    run = asyncio.run(runs.start(home, config))
    asyncio.run(runs.play(home, run))
    with LedgerView(home.ledger) as view:
        return view.summarize_run(run).to_json()


def test_order_of_waves_changes_no_dataset_and_swaps_are_few(
    tmp_path: Path, sleepy: Iterator[list[TimeShared]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = next(sleepy)
    groups = {"endpoints": {name: {"shares": "gpu0"} for name in ("duelist-a", "duelist-b", "arbiter")}}
    waves = {count: play(tmp_path / str(count), concurrency=count, **groups) for count in (1, 32)}
    swaps = made[-1].gpu.swaps
    monkeypatch.undo()
    plain = play(tmp_path / "plain", concurrency=8)
    assert waves[1]["digest"] == waves[32]["digest"] == plain["digest"]
    assert 0 < swaps < waves[32]["calls"]["made"] / 4
