"""The OpenAI chat endpoint against a server on loopback: requests, replies, retries and refusals."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from nanoflux_local.config import Price
from nanoflux_local.endpoints.remote import retries
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.errors import ConfigError, EndpointError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.records import ChatReply, ChatRequest, Message, Sampling
from nanoflux_local.run import configs, runs

KEY = "sk-very-secret-123456"
"""The API key, which must appear only in the requests to its server."""


def make_completion(text: Any = "hello", finish: Any = "stop", **fields: Any) -> dict[str, Any]:
    """A server's response with this text and finish reason, and additional `fields`."""
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
            **fields}  # fmt: skip


@pytest.fixture(autouse=True)
def default_answer(server: Any) -> None:
    server.answer((200, make_completion()))


def ask(endpoint: OpenAIChatEndpoint, **options: Any) -> ChatReply:
    """Send one request, and close the endpoint. `options` are further fields of the request."""

    async def send() -> ChatReply:
        try:
            return await endpoint.chat(ChatRequest(endpoint.identity, (Message("user", "hi"),), **options))
        finally:
            await endpoint.close()

    return asyncio.run(send())


def test_request_body_contains_only_the_fields_of_the_request(server: Any) -> None:
    messages = (Message("system", "Be terse."), Message("user", "2 + 2? ü\n"), Message("assistant", ""))
    endpoint = OpenAIChatEndpoint("some-model", server.url)
    sampling = Sampling(temperature=0.7, top_p=0.95, max_tokens=64, stop=("\n\n", "END"))

    async def send() -> None:
        await endpoint.chat(ChatRequest(endpoint.identity, messages, sampling, seed=2**62 + 1))
        await endpoint.chat(ChatRequest(endpoint.identity, messages))
        await endpoint.close()
        await endpoint.close()

    asyncio.run(send())
    expected_messages = [{"role": message.role, "content": message.content} for message in messages]
    assert server.paths == ["/v1/chat/completions"] * 2
    assert server.bodies == [
        {"model": "some-model", "messages": expected_messages, "temperature": 0.7, "top_p": 0.95, "max_tokens": 64,
         "seed": 2**62 + 1, "stop": ["\n\n", "END"]},
        {"model": "some-model", "messages": expected_messages, "temperature": 0.0, "top_p": 1.0, "max_tokens": 512,
         "seed": 0},
    ]  # fmt: skip


def test_endpoint_is_identified_by_model_and_server_and_is_not_repeatable(server: Any) -> None:
    endpoint, other_endpoint = (OpenAIChatEndpoint("m", url) for url in (server.url, "http://127.0.0.1:9/v1"))
    assert (endpoint.identity.interface, endpoint.identity.model) == ("openai_chat", "m")
    assert endpoint.identity != other_endpoint.identity
    assert not endpoint.repeatable and endpoint.count_tokens("text") is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (make_completion("hello", usage={"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}),
         ("hello", "stop", 12, 3)),
        (make_completion("cut of", "length"), ("cut of", "length", 0, 0)),
        (make_completion("", "stop"), ("", "stop", 0, 0)),
        (make_completion("as far as", "content_filter"), ("as far as", "refused", 0, 0)),
        (make_completion("x", usage=None), ("x", "stop", 0, 0)),
        (make_completion("x", usage={}), ("x", "stop", 0, 0)),
        (make_completion("x", usage={"prompt_tokens": None, "completion_tokens": "many"}), ("x", "stop", 0, 0)),
        (make_completion("x", vendor={"odd": [1]}, choices_extra=3), ("x", "stop", 0, 0)),
        (make_completion("\ud800 lone"), ("\ud800 lone", "stop", 0, 0)),
    ],
    ids=["with usage", "truncated", "empty text", "withheld", "null usage", "empty usage", "invalid usage",
         "extra fields", "surrogate"],
)  # fmt: skip
def test_text_finish_reason_and_usage_are_read_from_the_response(
    server: Any, body: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    server.answer((200, body))
    reply = ask(OpenAIChatEndpoint("m", server.url))
    assert (reply.text, reply.finish, reply.prompt_tokens, reply.completion_tokens) == expected
    assert reply.seconds > 0 and reply.usd == 0


@pytest.mark.parametrize(
    ("usage", "usd"),
    [({"prompt_tokens": 1000, "completion_tokens": 100}, 0.0028), (None, (2 * 2 + 8 * 512) / 1e6)],
    ids=["usage reported", "usage not reported: maximum cost"],
)
def test_reply_cost_follows_from_the_price(server: Any, usage: dict[str, int] | None, usd: float) -> None:
    server.answer((200, make_completion("x", usage=usage)))
    price = Price(prompt=2, completion=8)
    assert ask(OpenAIChatEndpoint("m", server.url, price=price)).usd == pytest.approx(usd)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Expecting value"),
        (b"{not json", "Expecting property name"),
        (b"\xff\xfe\x00{}", "codec can't decode"),
        (b"[]", "without text"),
        (b"null", "without text"),
        (b'"hello"', "without text"),
        ({"choices": []}, "without text"),
        ({"choices": None}, "without text"),
        ({"choices": {"a": 1}}, "without text"),
        ({"choices": [7]}, "without text"),
        ({"choices": [{"finish_reason": "stop"}]}, "without text"),
        ({"choices": [{"message": None, "finish_reason": "stop"}]}, "without text"),
        ({"error": "overloaded"}, "answered 500: overloaded"),
        (make_completion(5), "without text"),
        (make_completion([5]), "without text"),
    ],
)
def test_unusable_response_raises_an_endpoint_error(server: Any, body: Any, message: str) -> None:
    server.answer((200, body))
    with pytest.raises(EndpointError, match=message) as error:
        ask(OpenAIChatEndpoint("m", server.url))
    assert error.value.message.startswith(server.url) and "server's log" in error.value.fix


def test_web_page_instead_of_a_reply_is_not_retried(server: Any) -> None:
    server.answer((200, b"<html><title>Welcome</title></html>"))
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(EndpointError, match="answered with a web page: Welcome") as error:
        ask(OpenAIChatEndpoint("m", server.url.removesuffix("/v1")))
    assert f'url = "{server.url}"' in error.value.fix and len(server.bodies) == 1


def test_declared_encoding_is_used_and_an_unknown_encoding_is_refused(server: Any) -> None:
    server.answer((200, json.dumps(make_completion("caf\xe9"), ensure_ascii=False).encode("latin-1")))
    server.content_type = "application/json; charset=iso-8859-1"
    assert ask(OpenAIChatEndpoint("m", server.url)).text == "café"
    server.content_type = "application/json; charset=klingon"
    with pytest.raises(EndpointError, match="unknown encoding 'klingon'"):
        ask(OpenAIChatEndpoint("m", server.url))


def test_request_is_retried_after_server_errors(server: Any) -> None:
    server.answer((500, {"error": {"message": "out of memory"}}), (503, b"busy"), (200, make_completion("at last")))
    assert ask(OpenAIChatEndpoint("m", server.url)).text == "at last"
    assert len(server.bodies) == 3 and server.bodies[0] == server.bodies[2]


def test_request_fails_if_every_attempt_gets_a_server_error(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    server.answer((500, {"error": {"message": "out of memory"}}))
    with pytest.raises(EndpointError, match=r"answered 500: .*out of memory"):
        ask(OpenAIChatEndpoint("m", server.url))
    assert len(server.bodies) == 2


@pytest.mark.parametrize("code", [400, 401, 404, 422])
def test_refused_request_is_not_retried(server: Any, code: int) -> None:
    server.answer((code, {"error": {"message": "the model `m` does not exist"}}))
    with pytest.raises(EndpointError, match=f"answered {code}: .*does not exist"):
        ask(OpenAIChatEndpoint("m", server.url))
    assert len(server.bodies) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/v1", "127.0.0.1:{port}/v1"])
def test_unreachable_server_is_reported_with_its_address(url: str) -> None:
    with socket.socket() as closed_socket:
        closed_socket.bind(("127.0.0.1", 0))
        url = url.format(port=closed_socket.getsockname()[1])
        with pytest.raises(EndpointError, match="does not answer: ") as error:
            ask(OpenAIChatEndpoint("m", url))
    assert url in error.value.message and "start the server" in error.value.fix


def test_silent_server_is_reported_as_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        url = f"http://127.0.0.1:{silent_server.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match="did not answer within"):
            ask(OpenAIChatEndpoint("m", url, timeout_s=0.03))


# Keys


def test_key_from_the_environment_is_sent_as_bearer_token(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    ask(OpenAIChatEndpoint("m", server.url, "SOME_KEY"))
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_openai_key_is_not_sent_to_other_servers(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(OpenAIChatEndpoint("m", server.url))
    assert KEY not in str(server.headers)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_error_on_a_missing_key_names_the_variable(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ConfigError, match="environment variable SOME_KEY is not set"):
        OpenAIChatEndpoint("m", "http://127.0.0.1:1/v1", "SOME_KEY")


REFUSAL_WITH_KEY = {"error": {"message": f"Incorrect API key provided: {KEY}. You sent 'Bearer {KEY}'."}}
"""A refusal whose message repeats the key."""


@pytest.mark.parametrize("answer", [(200, make_completion("ok")), (401, REFUSAL_WITH_KEY)], ids=["accepted", "refused"])
def test_key_appears_in_no_file_log_or_error(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, answer: tuple[int, Any]
) -> None:
    """A server that refuses the key repeats it in its error message. Every logger is at level DEBUG."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv("SOME_KEY", KEY)
    server.answer(answer)
    home = Home(tmp_path).prepare()
    endpoint_settings = {"interface": "openai_chat", "url": server.url, "key_env": "SOME_KEY"}
    settings = {"endpoints": {"duelist-a": endpoint_settings, "arbiter": endpoint_settings}, "max_turns": 2}
    config = configs.resolve("starter-genetics", "scripted", settings, home)
    run = asyncio.run(runs.start(home, config))
    is_refused = answer[0] != 200
    if is_refused:
        with pytest.raises(EndpointError, match=r"answered 401: .*\[secret\]") as error:
            asyncio.run(runs.execute(home, run))
        assert KEY not in str(error.value)
    else:
        asyncio.run(runs.execute(home, run))
    sent_keys = {headers["authorization"] for headers in server.headers}
    assert f"Bearer {KEY}" in sent_keys
    with LedgerView(home.ledger) as view:
        assert view.summarize_run(run).to_json()["status"] == ("failed" if is_refused else "done")
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes(), file
    assert KEY not in caplog.text
