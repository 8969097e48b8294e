"""The real SDKs read replies in the formats of many servers, and mutated replies, over loopback.

No response raises anything but an EndpointError, no permanent refusal is retried, and a reply contains only text that
the server sent.
"""

import asyncio
import copy
import json
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanoflux_local.endpoints.faults import reporting_faults
from nanoflux_local.endpoints.remote import retries
from nanoflux_local.endpoints.remote.anthropic_messages import AnthropicMessagesEndpoint
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.openai_responses import OpenAIResponsesEndpoint
from nanoflux_local.endpoints.remote.served import ServedEndpoint
from nanoflux_local.errors import EndpointError
from nanoflux_local.reasoning import with_reasoning
from nanoflux_local.records import ChatReply, ChatRequest, Fault, Message, canonical_json
from tests.endpoints.reply_shapes import (
    SHAPES,
    Empty,
    Read,
    Refused,
    Retry,
    Shape,
    chat,
    message_item,
    messages,
    response,
)

CLIENTS: dict[str, type[ServedEndpoint]] = {
    "chat": OpenAIChatEndpoint,
    "responses": OpenAIResponsesEndpoint,
    "messages": AnthropicMessagesEndpoint,
}
GOOD_REPLY = {
    "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}],
    "content": [{"type": "text", "text": "yes"}],
    "stop_reason": "end_turn",
}
"""A reply that is valid in all three protocols."""


async def ask(endpoint: ServedEndpoint) -> ChatReply:
    """Send one request."""
    return await endpoint.chat(ChatRequest(endpoint.identity, (Message("user", "hi"),)))


class ServerWithClients:
    """A server and one client of each protocol. The tests share them, because creating a client is slow: it reads all
    certificates.
    """

    def __init__(self, server: Any) -> None:
        self.server = server
        self._runner = asyncio.Runner()
        self._endpoints = {protocol: client("m", server.url) for protocol, client in CLIENTS.items()}

    def ask(self, protocol: str) -> ChatReply:
        return self._runner.run(ask(self._endpoints[protocol]), context=copy_context())

    def close(self) -> None:
        for endpoint in self._endpoints.values():
            self._runner.run(endpoint.close())
        self._runner.close()
        self.server.close()


@pytest.fixture(scope="module")
def shared_server(new_server: Any) -> Iterator[ServerWithClients]:
    shared_server = ServerWithClients(new_server())
    yield shared_server
    shared_server.close()


def test_reply_shapes_cover_every_outcome_and_many_servers() -> None:
    assert len({shape.server for shape in SHAPES}) >= 13
    for kind in (Read, Empty, Refused, Retry):
        assert sum(isinstance(shape.outcome, kind) for shape in SHAPES) >= 10


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.server}: {shape.name}")
def test_reply_shape_has_its_expected_outcome(shared_server: ServerWithClients, shape: Shape) -> None:
    faults: list[Fault] = []
    outcome = shape.outcome
    answers = [(shape.status, shape.body)]
    if isinstance(outcome, Retry):
        answers.append((200, GOOD_REPLY))
    shared_server.server.answer(*answers)
    shared_server.server.bodies.clear()
    with reporting_faults(faults.append):
        if isinstance(outcome, Refused):
            with pytest.raises(EndpointError) as error:
                shared_server.ask(shape.protocol)
            assert outcome.message_part in str(error.value)
            assert len(shared_server.server.bodies) == 1
            return
        reply = shared_server.ask(shape.protocol)
    match outcome:
        case Read(text, finish, reasoning, tokens):
            assert (reply.text, reply.finish) == (with_reasoning(reasoning, text), finish)
            assert (reply.prompt_tokens, reply.completion_tokens) == tokens
            assert len(shared_server.server.bodies) == 1 and not faults
        case Empty():
            assert reply.finish == "stop" and not reply.text.rpartition("</think>")[2].strip()
            assert {fault.kind for fault in faults} == {"empty"}
            assert len(shared_server.server.bodies) == retries.EMPTY_ATTEMPTS
        case Retry(kind, message_part):
            assert reply.text == "yes" and len(shared_server.server.bodies) == 2
            assert [fault.kind for fault in faults] == [kind] and message_part in faults[0].message


# Mutations

COMPLETE_REPLIES = {
    "chat": chat({"content": "one", "reasoning": "two", "refusal": None, "tool_calls": []}),
    "responses": response([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "two"}]},
                           message_item({"type": "output_text", "text": "one"})]),
    "messages": messages([{"type": "thinking", "thinking": "two"}, {"type": "text", "text": "one"}]),
}  # fmt: skip
"""The replies that are mutated, by protocol: each has the text "one" and the reasoning "two"."""
json_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from(["stop", "length", "error", "tool_calls", "text", "refusal", "failed", "429", "\ud800", 10**30]),
)  # fmt: skip
json_values = st.recursive(
    json_scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "error", "message", "code", "content", "refusal", "status", "name"]),
            inner, max_size=3,
        )
    ),
    max_leaves=5,
)  # fmt: skip


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    yield path
    for key, inner in list_children(value):
        yield from list_paths(inner, (*path, key))


def list_children(value: Any) -> list[tuple[Any, Any]]:
    """The keys or indices of an object or a list, each with its value."""
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, list) else []


@st.composite
def mutate(draw: st.DrawFn, reply: Any) -> Any:
    """Replace or remove up to three values of a reply."""
    body = copy.deepcopy(reply)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(list_paths(body))))
        if not path:
            return draw(json_values)
        container = body
        for key in path[:-1]:
            container = container[key]
        if isinstance(container, dict) and draw(st.booleans()):
            del container[path[-1]]
        else:
            container[path[-1]] = draw(json_values)
    return body


def list_texts(value: Any) -> Iterator[str]:
    """All string values in a JSON document."""
    if isinstance(value, str):
        yield value
    for _, inner in list_children(value):
        yield from list_texts(inner)


@pytest.mark.parametrize("protocol", list(CLIENTS))
def test_mutated_reply_is_read_or_refused(shared_server: ServerWithClients, monkeypatch: Any, protocol: str) -> None:
    for name, value in (("ATTEMPTS", 1), ("EMPTY_ATTEMPTS", 1), ("MAX_WAIT_S", 0.0)):
        monkeypatch.setattr(retries, name, value)

    @settings(max_examples=100, deadline=None, database=None, derandomize=True,
              suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
    @given(mutate(COMPLETE_REPLIES[protocol]), st.sampled_from([200, 200, 200, 400, 500]))
    def check_mutated_reply(body: Any, status: int) -> None:
        shared_server.server.bodies.clear()
        shared_server.server.answer((status, json.dumps(body).encode()))
        try:
            with reporting_faults(lambda fault: None):
                reply = shared_server.ask(protocol)
        except EndpointError as error:
            assert error.message
            reply = None
        assert len(shared_server.server.bodies) <= 2  # a refused parameter is left out of one retry
        if reply is not None:
            assert status == 200
            canonical_json(reply.to_json()).encode()
            assert 0 <= reply.prompt_tokens < 2**31 and 0 <= reply.completion_tokens < 2**31
            answer = reply.text.rpartition("</think>\n")[2]
            sent_text = "".join(list_texts(body))
            assert answer[:3] in sent_text and answer[-3:] in sent_text, "the reply has text that was not sent"

    check_mutated_reply()
