"""Behaviour that all clients share: retries, adaptive limits on concurrency and time, keys, prices and error texts."""

import asyncio
import email.utils
import time
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.config import EndpointConfig, validate_model
from nanoflux_local.endpoints.build import build_endpoint
from nanoflux_local.endpoints.chaos import Chaos
from nanoflux_local.endpoints.faults import read_retry_after
from nanoflux_local.endpoints.prices import find_price
from nanoflux_local.endpoints.remote import gauge, pace, retries
from nanoflux_local.endpoints.remote.anthropic_messages import AnthropicMessagesEndpoint
from nanoflux_local.endpoints.remote.gauge import read_metrics
from nanoflux_local.endpoints.remote.keys import read_key
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.openai_responses import OpenAIResponsesEndpoint
from nanoflux_local.endpoints.remote.pace import AdaptiveLimiter, AdaptiveTimeout
from nanoflux_local.endpoints.remote.served import ServedEndpoint
from nanoflux_local.errors import ConfigError, EndpointError
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest, Message, Sampling
from nanoflux_local.run import configs

CLIENTS = (OpenAIChatEndpoint, OpenAIResponsesEndpoint, AnthropicMessagesEndpoint)
"""The client of each protocol."""
GOOD_REPLY = {
    "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}],
    "content": [{"type": "text", "text": "yes"}],
    "stop_reason": "end_turn",
}
"""A reply that is valid in all three protocols."""


def make_request(endpoint: ServedEndpoint, text: str = "hi", tokens: int = 16) -> ChatRequest:
    """A request for a reply of at most `tokens` tokens."""
    return ChatRequest(endpoint.identity, (Message("user", text),), Sampling(max_tokens=tokens))


def ask(endpoint: ServedEndpoint) -> ChatReply:
    """Send one request, and close the endpoint."""

    async def send() -> ChatReply:
        try:
            return await endpoint.chat(make_request(endpoint))
        finally:
            await endpoint.close()

    return asyncio.run(send())


# Waiting


@pytest.mark.parametrize("client_class", CLIENTS)
def test_busy_server_is_retried_after_the_pause_that_it_requests(client_class: Any, server: Any, monkeypatch) -> None:
    monkeypatch.setattr(retries, "BASE_S", 0.001)
    server.more_headers = {"Retry-After": "0.4"}
    server.answer((429, {"error": {"message": "slow down"}}), (200, GOOD_REPLY))
    start_time = time.monotonic()
    assert ask(client_class("m", server.url)).text == "yes"
    assert time.monotonic() - start_time >= 0.4 and len(server.bodies) == 2


@pytest.mark.parametrize("client_class", CLIENTS)
def test_busy_responses_do_not_count_as_attempts_but_failures_do(client_class: Any, server: Any, monkeypatch) -> None:
    for name, value in (("BASE_S", 0.001), ("MAX_PAUSE_S", 0.002), ("ATTEMPTS", 2)):
        monkeypatch.setattr(retries, name, value)
    server.answer(*[(429, {"error": {"message": "slow down"}})] * 20, (500, b"broken"), (200, GOOD_REPLY))
    assert ask(client_class("m", server.url)).text == "yes"
    assert len(server.bodies) == 22


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_seconds_or_milliseconds_and_ignored_if_invalid(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert read_retry_after(headers) == seconds


def test_retry_after_may_be_a_date() -> None:
    seconds = read_retry_after({"retry-after": email.utils.formatdate(time.time() + 1000, usegmt=True)})
    assert seconds == pytest.approx(1000, abs=100)
    assert read_retry_after({"retry-after": email.utils.formatdate(time.time() - 1000, usegmt=True)}) is None


def test_cancelling_a_request_closes_its_connection(fake_server) -> None:
    url, server = fake_server(Chaos({"stall": 1.0}))

    async def send_and_cancel() -> None:
        endpoint = OpenAIChatEndpoint("m", url)
        task = asyncio.create_task(endpoint.chat(make_request(endpoint)))
        while not server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(500):
            if server.disconnects:
                break
            await asyncio.sleep(0.01)
        await endpoint.close()

    asyncio.run(send_and_cancel())
    assert server.disconnects == server.requests == 1


# Concurrency


async def test_adaptive_limiter_halves_once_for_concurrent_requests_and_widens_with_each_response() -> None:
    limiter, start_time = AdaptiveLimiter(32), time.monotonic()
    limiter.halve(start_time)
    limiter.halve(start_time)
    assert limiter.limit == 16
    limiter.halve(time.monotonic())
    assert limiter.limit == 8
    for _ in range(9):
        limiter.widen()
    assert 8.9 < limiter.limit < 10, "nine responses at a limit of 8 did not raise it by about 1"
    for _ in range(1000):
        limiter.widen()
    assert limiter.limit == limiter.capacity == 32
    for _ in range(10):
        limiter.halve(time.monotonic())
    assert limiter.limit == 1


async def test_adaptive_limiter_bounds_concurrency_and_frees_the_slot_of_a_cancelled_request() -> None:
    limiter = AdaptiveLimiter(3)
    in_flight = 0
    max_in_flight = 0

    async def occupy_slot() -> None:
        nonlocal in_flight, max_in_flight
        async with limiter:
            in_flight += 1
            max_in_flight = max(max_in_flight, in_flight)
            try:
                await asyncio.sleep(0.001)
            finally:
                in_flight -= 1

    tasks = [asyncio.create_task(occupy_slot()) for _ in range(40)]
    await asyncio.sleep(0.002)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert max_in_flight == 3 and limiter.busy == 0 and limiter.load == 0


def test_busy_server_gets_fewer_concurrent_requests(fake_server, monkeypatch) -> None:
    monkeypatch.setattr(retries, "BASE_S", 0.001)
    url, server = fake_server(Chaos({"rate_limited": 0.5}, seed=2, retry_after_s=0.001))

    async def find_lowest_limit() -> float:
        endpoint = OpenAIChatEndpoint("m", url, capacity=32)
        lowest_limit = 32.0

        async def send_one(number: int) -> None:
            nonlocal lowest_limit
            await endpoint.chat(make_request(endpoint, str(number)))
            lowest_limit = min(lowest_limit, endpoint.service.concurrency_limits()[0])

        try:
            await asyncio.gather(*(send_one(number) for number in range(100)))
        finally:
            await endpoint.close()
        return lowest_limit

    assert asyncio.run(find_lowest_limit()) <= 16 and server.chaos.fault_counts["rate_limited"] > 20


@pytest.mark.parametrize(
    ("queued_requests", "cache_usage", "lowers_limit"),
    [(100.0, 0.1, True), (0.0, 0.99, True), (2.0, 0.3, False)],
    ids=["queue", "full cache", "idle"],
)
def test_concurrency_limit_follows_vllms_metrics(
    fake_server, monkeypatch, queued_requests: float, cache_usage: float, lowers_limit: bool
) -> None:
    monkeypatch.setattr(gauge, "INTERVAL_S", 0.01)
    monkeypatch.setattr(gauge, "SETTLE_S", 0.001)
    url, server = fake_server()
    server.queued_requests, server.cache_usage = queued_requests, cache_usage
    limit = asyncio.run(measure_concurrency_limit(url, 10))
    if lowers_limit:
        assert limit < 8
    else:
        assert limit == 32


def test_momentary_queue_does_not_lower_the_concurrency_limit(fake_server, monkeypatch) -> None:
    class MomentaryQueue:
        """A metric that alternates between 31 and 0 waiting requests from one reading to the next."""

        readings = 0

        def __format__(self, spec: str) -> str:
            self.readings += 1
            return str(31.0 if self.readings % 2 else 0.0)

    monkeypatch.setattr(gauge, "INTERVAL_S", 0.01)
    monkeypatch.setattr(gauge, "SETTLE_S", 0.001)
    url, server = fake_server()
    server.queued_requests = MomentaryQueue()
    assert asyncio.run(measure_concurrency_limit(url, 5)) == 32
    assert server.queued_requests.readings >= 4


async def measure_concurrency_limit(url: str, requests: int) -> float:
    """The concurrency limit of an endpoint, initially 32, after `requests` requests in sequence."""
    endpoint = OpenAIChatEndpoint("m", url, capacity=32)
    try:
        for number in range(requests):
            await endpoint.chat(make_request(endpoint, str(number)))
            await asyncio.sleep(0.05)
        return endpoint.service.concurrency_limits()[0]
    finally:
        await endpoint.close()


def test_read_metrics_returns_the_highest_values_of_several_engines() -> None:
    text = (
        "# HELP x\nvllm:num_requests_waiting{engine=\"0\"} 1.0\nvllm:num_requests_waiting{engine=\"1\"} 7.0\n"
        "vllm:kv_cache_usage_perc 0.5\nvllm:other 9\n"
    )  # fmt: skip
    assert read_metrics(text) == {"num_requests_waiting": 7.0, "kv_cache_usage_perc": 0.5}


# Time limits


async def test_time_limit_follows_the_measured_speed_down_to_its_minimum() -> None:
    timeout = AdaptiveTimeout(min_s=2.0)
    assert timeout.limit(512) == 2.0 * pace.FIRST_MULTIPLE
    timeout.note_answer(seconds=10.0, tokens=100)  # 0.1 s per token
    assert timeout.limit(1000) == pytest.approx(pace.MULTIPLE * 0.1 * 1000)
    assert timeout.limit(1) == pytest.approx(pace.MULTIPLE * 0.1 * pace.MIN_TOKENS)
    for _ in range(200):
        timeout.note_answer(seconds=0.01, tokens=100)
    assert timeout.limit(1000) == 2.0


async def test_time_limit_grows_after_a_timeout_up_to_a_bound() -> None:
    timeout = AdaptiveTimeout(min_s=0.01)
    timeout.note_answer(seconds=0.0001, tokens=64)
    limit_before = timeout.limit(64)
    for _ in range(8):
        with pytest.raises(TimeoutError):
            async with timeout.time_limit(tokens=64, timeout_s=0.01):
                await asyncio.sleep(1)
    assert limit_before < timeout.limit(64) <= pace.MAX_SLACK * limit_before


async def test_first_measured_speed_applies_to_running_requests() -> None:
    timeout, start_time = AdaptiveTimeout(min_s=0.05), time.monotonic()
    with pytest.raises(TimeoutError):
        async with timeout.time_limit(tokens=64, timeout_s=timeout.limit(64)):
            timeout.note_answer(seconds=0.001, tokens=64)
            await asyncio.sleep(10)
    assert time.monotonic() - start_time < 0.05 * pace.FIRST_MULTIPLE


# Keys and addresses


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    file.write_text("sk-123456789\n")
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"can be read by others .mode {mode:04o}"):
        read_key(file=str(file))
    file.chmod(0o600)
    assert read_key(file=str(file)).text == "sk-123456789"


@pytest.mark.parametrize("content", [b"", b" \n", b"one two", b"\xff\xfe"])
def test_key_file_with_anything_but_one_key_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=r"exactly one key|is not text"):
        read_key(file=str(file))


def test_error_on_a_missing_key_file_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as error:
        read_key(file=str(tmp_path / "key"))
    assert str(tmp_path / "key") in error.value.message


@pytest.mark.parametrize(
    "url",
    ["http://me:secret@host/v1", "http://secret@host/v1", "http://host/v1?api_key=secret", "http://host/v1#secret"],
)
def test_address_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    for address_fields in ({"url": url}, {"urls": [url, "http://other/v1"]}):
        with pytest.raises(ConfigError, match="a user, password, query or fragment") as error:
            validate_model(
                EndpointConfig, {"interface": "openai_chat", "model": "m", **address_fields}, "profile: endpoints.x"
            )
        assert "secret" not in f"{error.value}{error.value.fix}"


# Prices


def make_config(model: str, **fields: Any) -> EndpointConfig:
    """The configuration of an endpoint at Anthropic, unless `fields` set another URL."""
    return EndpointConfig.model_validate({"interface": "anthropic_messages", "model": model, **fields})


def test_price_is_looked_up_by_address_and_model_and_overridden_by_the_user(tmp_path: Path) -> None:
    list_price = find_price(make_config("claude-opus-4-5"), tmp_path)
    assert list_price is not None and list_price.completion > list_price.prompt > 0
    assert find_price(make_config("claude-opus-4-5-20251101"), tmp_path) == list_price
    assert find_price(make_config("unknown-model"), tmp_path) is None
    assert find_price(make_config("claude-opus-4-5", url="http://127.0.0.1:8000/v1"), tmp_path) is None
    (tmp_path / "prices.toml").write_text('["api.anthropic.com"]\nclaude-opus-4-5 = { prompt = 1, completion = 2 }\n')
    user_price = find_price(make_config("claude-opus-4-5"), tmp_path)
    assert user_price is not None and (user_price.prompt, user_price.completion) == (1, 2)
    (tmp_path / "prices.toml").write_text('["api.anthropic.com"]\nclaude-opus-4-5 = { prompt = "much" }\n')
    with pytest.raises(ConfigError, match=r"prices\.toml: api\.anthropic\.com: claude-opus-4-5"):
        find_price(make_config("claude-opus-4-5"), tmp_path)


# Profiles


@pytest.mark.parametrize(
    ("profile", "settings", "interfaces"),
    [
        ("hosted", {}, ("anthropic_messages", "openai_responses", "openai_responses")),
        ("hybrid", {}, ("vllm", "vllm", "openai_responses")),
        ("hybrid", {"roles": {"attacker": {"endpoint": "claude"}}}, ("anthropic_messages", "vllm", "openai_responses")),
        ("hosted", {"roles": {"judge": {"endpoint": "claude"}}},
         ("anthropic_messages", "openai_responses", "anthropic_messages")),
    ],
    ids=["hosted", "hybrid", "hybrid with a hosted attacker", "hosted with another judge"],
)  # fmt: skip
def test_profile_assigns_each_role_an_endpoint_with_the_expected_interface(
    tmp_path: Path, monkeypatch, profile: str, settings: dict[str, Any], interfaces: tuple[str, ...]
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-1111111111")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-2222222222")
    home = Home(tmp_path)
    config = configs.resolve("starter-genetics", profile, {"max_turns": 1, **settings}, home)
    endpoint_configs = [
        config.endpoints[getattr(config.roles, role).endpoint] for role in ("attacker", "defender", "judge")
    ]
    assert tuple(endpoint_config.interface for endpoint_config in endpoint_configs) == interfaces
    for endpoint_config in endpoint_configs:
        if endpoint_config.interface != "vllm":
            endpoint = build_endpoint("x", endpoint_config, home)
            assert endpoint.identity.interface == endpoint_config.interface
            assert not endpoint.repeatable and endpoint_config.price is not None


def test_error_on_a_hosted_profile_without_its_key_names_the_variable(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-2222222222")
    home = Home(tmp_path)
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY is not set"):
        config = configs.resolve("starter-genetics", "hosted", {"max_turns": 1}, home)
        build_endpoint("claude", config.endpoints["claude"], home)


# Error texts


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize(
    ("body", "message_part"),
    [
        ({"detail": [{"loc": ["body", "n"], "msg": "Extra inputs are not permitted"}]}, "body.n: Extra inputs"),
        ({"error": {"message": "prompt is too long"}}, "prompt is too long"),
        (b"<html><title>403 Forbidden</title></html>", "403 Forbidden"),
        (b"", "no reason stated"),
    ],
)
def test_refusal_is_reported_with_the_servers_message(
    client_class: Any, server: Any, body: Any, message_part: str
) -> None:
    server.answer((422, body))
    with pytest.raises(EndpointError, match=f"answered 422: {message_part}"):
        ask(client_class("m", server.url))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("client_class", CLIENTS)
def test_error_suggests_the_version_that_the_url_lacks(client_class: Any, server: Any) -> None:
    server.answer((404, {"detail": "Not Found"}))
    url = server.url.removesuffix("/v1") + "/api"
    if client_class is not AnthropicMessagesEndpoint:  # Anthropic's SDK appends the version to any url
        with pytest.raises(EndpointError, match="answered 404: Not Found") as error:
            ask(client_class("m", url))
        assert f'did you mean url = "{url}/v1"?' in error.value.fix
    server.answer((404, {"error": {"message": "The model `m` does not exist"}}))
    with pytest.raises(EndpointError, match="does not exist") as error:
        ask(client_class("m", server.url))
    assert "model" in error.value.fix


@pytest.mark.parametrize("client_class", CLIENTS)
def test_redirect_is_reported_and_not_followed(client_class: Any, server: Any) -> None:
    server.more_headers = {"Location": "https://elsewhere.example/v1/chat/completions?token=abc"}
    server.answer((308, b""))
    with pytest.raises(EndpointError, match=r"a redirect to https://elsewhere\.example/v1/chat/completions\n") as error:
        ask(client_class("m", server.url))
    assert "url" in error.value.fix and "abc" not in str(error.value) and len(server.bodies) == 1
