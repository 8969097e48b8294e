"""Busy servers: each call's limit on waiting, the preference for healthy replicas, and reports of long waits."""

import asyncio
import time
from typing import Any

import pytest

from nanoflux_local.endpoints.remote import retries, waits
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.waits import reporting_waits
from nanoflux_local.errors import BusyError
from nanoflux_local.records import ChatRequest, Message

GOOD_REPLY = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
BUSY_RESPONSE = {"error": {"message": "Rate limit reached: tokens per day"}}
"""The body of a busy server's response, which has status 429 or 503."""


def send_requests(count: int, *urls: str) -> list[Any]:
    """Send concurrent requests to replicas at `urls`; return a reply or an error for each request."""

    async def send() -> list[Any]:
        endpoint = OpenAIChatEndpoint("m", urls=urls)
        requests = [ChatRequest(endpoint.identity, (Message("user", f"question {number}"),)) for number in range(count)]
        try:
            return await asyncio.gather(*map(endpoint.chat, requests), return_exceptions=True)
        finally:
            await endpoint.close()

    return asyncio.run(send())


@pytest.fixture
def busy_server(new_server: Any):
    """A second server, which refuses every request as busy."""
    server = new_server()
    server.answer((429, BUSY_RESPONSE))
    yield server
    server.close()


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("call_count", [1, 8])
def test_request_for_too_long_a_pause_fails_every_call_immediately(busy_server, call_count: int, status: int) -> None:
    busy_server.answer((status, BUSY_RESPONSE))
    busy_server.more_headers = {"Retry-After": "43200"}
    outcomes = send_requests(call_count, busy_server.url)
    assert all(isinstance(outcome, BusyError) and outcome.pauses for outcome in outcomes)
    message = f"{busy_server.url} asks for a pause until .*: it answered {status}: Rate limit reached: tokens per day"
    with pytest.raises(BusyError, match=message):
        raise outcomes[0]
    assert len(busy_server.bodies) <= call_count


def test_total_wait_of_a_call_is_limited(busy_server, monkeypatch) -> None:
    monkeypatch.setattr(retries, "MAX_WAIT_S", 0.5)
    busy_server.more_headers = {"Retry-After": "0.2"}
    assert isinstance(send_requests(1, busy_server.url)[0], BusyError)
    assert len(busy_server.bodies) == 3
    busy_server.more_headers = {}
    assert isinstance(send_requests(1, busy_server.url)[0], BusyError)


def test_healthy_replica_answers_while_another_asks_for_a_pause(server, busy_server) -> None:
    server.answer((200, GOOD_REPLY))
    busy_server.more_headers = {"Retry-After": "600"}
    outcomes = send_requests(20, busy_server.url, server.url)
    assert [outcome.text for outcome in outcomes] == ["yes"] * 20
    assert len(server.bodies) == 20


def test_busy_replica_without_retry_after_is_not_retried_immediately(server, busy_server) -> None:
    server.answer((200, GOOD_REPLY))
    assert send_requests(1, busy_server.url, server.url)[0].text == "yes"
    assert len(busy_server.bodies) == len(server.bodies) == 1


def test_call_waits_for_the_replica_with_the_shortest_pause(server, busy_server) -> None:
    server.answer((429, BUSY_RESPONSE), (200, GOOD_REPLY))
    server.more_headers, busy_server.more_headers = {"Retry-After": "0.5"}, {"Retry-After": "600"}
    start_time = time.monotonic()
    assert send_requests(1, busy_server.url, server.url)[0].text == "yes"
    assert time.monotonic() - start_time >= 0.5
    assert len(busy_server.bodies) == 1 and len(server.bodies) == 2


def test_long_wait_is_reported_once_with_its_reason_and_its_end(server, monkeypatch) -> None:
    monkeypatch.setattr(waits, "MIN_REPORTED_S", 0.3)
    server.answer(*[(429, BUSY_RESPONSE)] * 8, (200, GOOD_REPLY))
    server.more_headers = {"Retry-After": "0.4"}
    lines: list[str] = []
    with reporting_waits(lines.append):
        outcomes = send_requests(8, server.url)
    assert [outcome.text for outcome in outcomes] == ["yes"] * 8
    assert len(lines) == 1 and lines[0].startswith(f"{server.url} answered 429: Rate limit reached: tokens per day")
    assert "; the next request is sent at " in lines[0]


def test_endpoints_that_share_a_server_report_a_wait_once() -> None:
    lines: list[str] = []
    with reporting_waits(lines.append):
        for _ in range(2):
            waits.Waits().note("http://127.0.0.1:1/v1", "answered 429: slow down", seconds=86_400.0 * 3, waited_s=60.0)
    assert len(lines) == 1


def test_wait_for_a_failing_server_is_reported(server, monkeypatch) -> None:
    monkeypatch.setattr(waits, "MIN_REPORTED_S", 0.0)
    monkeypatch.setattr(waits, "REPORT_INTERVAL_S", 0.0)
    server.answer(*[(500, {"error": {"message": "out of memory"}})] * 3, (200, GOOD_REPLY))
    lines: list[str] = []
    with reporting_waits(lines.append):
        assert send_requests(1, server.url)[0].text == "yes"
    assert lines and all("answered 500: out of memory" in line for line in lines)
