"""Waiting for busy servers: bounded for each call, healthy replicas first, and reported."""

import asyncio
import time
from typing import Any

import pytest

from nanoflux_local.endpoints.remote import retries, waits
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.waits import reporting_waits
from nanoflux_local.errors import BusyError
from nanoflux_local.records import ChatRequest, Message

GOOD = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
BUSY = {"error": {"message": "Rate limit reached: tokens per day"}}


def ask(count: int, *urls: str) -> list[Any]:
    """The results of concurrent requests: replies or errors."""

    async def send() -> list[Any]:
        endpoint = OpenAIChatEndpoint("m", urls=urls)
        asked = [ChatRequest(endpoint.identity, (Message("user", f"question {number}"),)) for number in range(count)]
        try:
            return await asyncio.gather(*map(endpoint.chat, asked), return_exceptions=True)
        finally:
            await endpoint.close()

    return asyncio.run(send())


@pytest.fixture
def busy(new_server: Any):
    running = new_server()
    running.answer((429, BUSY))
    yield running
    running.close()


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("calls", [1, 8])
def test_server_that_asks_for_too_long_a_pause_ends_every_call_at_once(busy, calls: int, status: int) -> None:
    busy.answer((status, BUSY))
    busy.more_headers = {"Retry-After": "43200"}
    outcomes = ask(calls, busy.url)
    assert all(isinstance(outcome, BusyError) and outcome.pauses for outcome in outcomes)
    message = f"{busy.url} asks for a pause until .*: it answered {status}: Rate limit reached: tokens per day"
    with pytest.raises(BusyError, match=message):
        raise outcomes[0]
    assert len(busy.bodies) <= calls


def test_waits_of_one_call_are_limited_in_sum(busy, monkeypatch) -> None:
    monkeypatch.setattr(retries, "PATIENCE_S", 0.5)
    busy.more_headers = {"Retry-After": "0.2"}
    assert isinstance(ask(1, busy.url)[0], BusyError)
    assert len(busy.bodies) == 3
    busy.more_headers = {}
    assert isinstance(ask(1, busy.url)[0], BusyError)


def test_healthy_replica_answers_while_another_asks_for_a_pause(server, busy) -> None:
    server.answer((200, GOOD))
    busy.more_headers = {"Retry-After": "600"}
    outcomes = ask(20, busy.url, server.url)
    assert [outcome.text for outcome in outcomes] == ["yes"] * 20
    assert len(server.bodies) == 20


def test_busy_replica_without_retry_after_is_not_retried_at_once(server, busy) -> None:
    server.answer((200, GOOD))
    assert ask(1, busy.url, server.url)[0].text == "yes"
    assert len(busy.bodies) == len(server.bodies) == 1


def test_first_free_replica_is_awaited_if_all_ask_for_a_pause(server, busy) -> None:
    server.answer((429, BUSY), (200, GOOD))
    server.more_headers, busy.more_headers = {"Retry-After": "0.5"}, {"Retry-After": "600"}
    began = time.monotonic()
    assert ask(1, busy.url, server.url)[0].text == "yes"
    assert time.monotonic() - began >= 0.5
    assert len(busy.bodies) == 1 and len(server.bodies) == 2


def test_long_wait_is_reported_once_with_its_reason_and_its_end(server, monkeypatch) -> None:
    monkeypatch.setattr(waits, "LONG_S", 0.3)
    server.answer(*[(429, BUSY)] * 8, (200, GOOD))
    server.more_headers = {"Retry-After": "0.4"}
    lines: list[str] = []
    with reporting_waits(lines.append):
        outcomes = ask(8, server.url)
    assert [outcome.text for outcome in outcomes] == ["yes"] * 8
    assert len(lines) == 1 and lines[0].startswith(f"{server.url} answered 429: Rate limit reached: tokens per day")
    assert "; the next request is sent at " in lines[0]


def test_endpoints_that_share_a_server_report_a_wait_once() -> None:
    lines: list[str] = []
    with reporting_waits(lines.append):
        for _ in range(2):
            waits.Waits().note("http://127.0.0.1:1/v1", "answered 429: slow down", 86_400.0 * 3, 60.0)
    assert len(lines) == 1


def test_repeatedly_failing_server_is_reported_too(server, monkeypatch) -> None:
    monkeypatch.setattr(waits, "LONG_S", 0.0)
    monkeypatch.setattr(waits, "AGAIN_S", 0.0)
    server.answer(*[(500, {"error": {"message": "out of memory"}})] * 3, (200, GOOD))
    lines: list[str] = []
    with reporting_waits(lines.append):
        assert ask(1, server.url)[0].text == "yes"
    assert lines and all("answered 500: out of memory" in line for line in lines)
