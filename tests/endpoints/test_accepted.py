"""The model name, the `send` settings and the server's refusals determine which parameters an endpoint sends."""

import asyncio
import logging
from typing import Any

import pytest

from nanoflux_local.config import EndpointConfig, Send, validate_model
from nanoflux_local.endpoints.build import check_endpoint
from nanoflux_local.endpoints.faults import reporting_faults
from nanoflux_local.endpoints.remote.accepted import INT32_SEEDS, infer_accepted
from nanoflux_local.endpoints.remote.anthropic_messages import AnthropicMessagesEndpoint
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.openai_responses import OpenAIResponsesEndpoint
from nanoflux_local.endpoints.remote.served import ServedEndpoint, check_address
from nanoflux_local.errors import ConfigError, EndpointError
from nanoflux_local.records import ChatReply, ChatRequest, Fault, Message, Sampling

GOOD_REPLY = {
    "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}],
    "content": [{"type": "text", "text": "yes"}],
    "stop_reason": "end_turn",
}
"""A reply that is valid in all three protocols."""
SEED = 2**62 + 1
"""A seed that needs more than 32 bits."""
STOP_STRINGS = ("a1", "b2", "c3", "d4", "e5")
"""More stop strings than some servers accept."""


def ask(endpoint: ServedEndpoint, times: int = 1) -> list[ChatReply]:
    """Send a request with every parameter `times` times in sequence, and close the endpoint."""
    messages = (Message("system", "Be terse."), Message("user", "2 + 2?"))
    sampling = Sampling(temperature=0.7, top_p=0.9, max_tokens=64, stop=STOP_STRINGS)
    request = ChatRequest(endpoint.identity, messages, sampling, SEED)

    async def send() -> list[ChatReply]:
        try:
            return [await endpoint.chat(request) for _ in range(times)]
        finally:
            await endpoint.close()

    return asyncio.run(send())


def make_refusal(message: str, status: int = 400, **fields: Any) -> tuple[int, Any]:
    """The HTTP status and the body of a refusal in OpenAI's format."""
    return status, {"error": {"message": message, "type": "invalid_request_error", **fields}}


# The model name


@pytest.mark.parametrize(
    ("model", "accepts_sampling", "accepts_both", "max_tokens"),
    [
        ("gpt-4o", True, True, "max_tokens"),
        ("duelist-a", True, True, "max_tokens"),
        ("Qwen/Qwen3-32B", True, True, "max_tokens"),
        ("o3-mini", False, True, "max_completion_tokens"),
        ("azure/o3-deploy", False, True, "max_completion_tokens"),
        ("gpt-5.1", False, True, "max_completion_tokens"),
        ("gpt-5-chat-latest", True, True, "max_tokens"),
        ("openai/gpt-5-mini", False, True, "max_completion_tokens"),
        ("ft:o4-mini-2025-04-16:lab::id", False, True, "max_completion_tokens"),
        ("claude-sonnet-4-5", True, False, "max_tokens"),
        ("claude-opus-4-7", False, False, "max_tokens"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", True, False, "max_tokens"),
        ("anthropic.claude-opus-4-6-v1", True, False, "max_tokens"),
        ("global.anthropic.claude-opus-4-7-v1:0", False, False, "max_tokens"),
        ("bedrock/eu.anthropic.claude-3-5-sonnet-20240620-v1:0", True, False, "max_tokens"),
        ("anthropic/claude-sonnet-4.5", True, False, "max_tokens"),
        ("anthropic/claude-opus-4.8", False, False, "max_tokens"),
        ("claude-sonnet-4-5@20250929", True, False, "max_tokens"),
    ],
)
def test_accepted_parameters_depend_on_the_model_name_without_its_prefix(
    model: str, accepts_sampling: bool, accepts_both: bool, max_tokens: str
) -> None:
    accepted = infer_accepted(model)
    assert (accepted.temperature, accepted.top_p) == (accepts_sampling, accepts_sampling)
    assert (accepted.temperature_with_top_p, accepted.max_tokens) == (accepts_both, max_tokens)


# The `send` settings


def test_send_settings_override_the_parameters_inferred_from_the_model_name(server: Any) -> None:
    server.answer((200, GOOD_REPLY))
    send = Send(seed="int32", top_p=False, stop=2, max_tokens="max_completion_tokens", system=False)
    ask(OpenAIChatEndpoint("m", server.url, send=send))
    assert server.bodies == [
        {"model": "m", "messages": [{"role": "user", "content": "Be terse.\n\n2 + 2?"}], "temperature": 0.7,
         "max_completion_tokens": 64, "seed": SEED % INT32_SEEDS, "stop": ["a1", "b2"]}
    ]  # fmt: skip
    ask(OpenAIChatEndpoint("o3", server.url, send=Send(temperature=True, max_tokens="max_tokens", seed=False)))
    body = server.bodies[1]
    assert body["temperature"] == 0.7 and body["max_tokens"] == 64 and not {"top_p", "seed", "stop"} & set(body)


def test_reasoning_model_gets_stop_strings_only_if_send_requests_them() -> None:
    assert infer_accepted("m", is_reasoning_model=True).stop_strings(STOP_STRINGS) == []
    accepted_with_send = infer_accepted("m", is_reasoning_model=True, send=Send(stop=True))
    assert accepted_with_send.stop_strings(STOP_STRINGS) == list(STOP_STRINGS)


def test_send_settings_do_not_change_the_identity(server: Any) -> None:
    plain_endpoint = OpenAIChatEndpoint("m", server.url)
    endpoint_with_send = OpenAIChatEndpoint("m", server.url, send=Send(seed=False, temperature=False))
    assert plain_endpoint.identity == endpoint_with_send.identity


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interface": "openai_chat", "send": {"sed": False}}, r"unknown key 'send\.sed'"),
        ({"interface": "openai_chat", "send": {"max_tokens": "most"}}, r"send\.max_tokens"),
        ({"interface": "vllm", "send": {"seed": False}}, "send: the interface 'vllm' does not support it"),
    ],
)
def test_unknown_or_unsupported_send_settings_are_refused(values: dict[str, Any], message: str) -> None:
    location = "profile: endpoints.x"
    with pytest.raises(ConfigError, match=message):
        check_endpoint(validate_model(EndpointConfig, {"model": "m", **values}, location), location)


# The server's refusals

CHAT, RESPONSES, MESSAGES = OpenAIChatEndpoint, OpenAIResponsesEndpoint, AnthropicMessagesEndpoint
SEED_ERROR = {
    "type": "extra_forbidden",
    "loc": ["body", "seed"],
    "msg": "Extra inputs are not permitted",
    "input": SEED,
}
"""FastAPI's error if the parameter `seed` is not permitted."""


@pytest.mark.parametrize(
    ("client_class", "refusal", "removed_names", "added_parameters"),
    [
        (CHAT, (422, {"object": "error", "message": {"detail": [SEED_ERROR]}}), ["seed"], {}),
        (CHAT, (422, {"detail": [SEED_ERROR]}), ["seed"], {}),
        (CHAT, make_refusal("seed: must be less than 2147483647"), [], {"seed": SEED % INT32_SEEDS}),
        (CHAT, (400, [{"error": {"code": 400, "message": "Invalid value at 'generation_config.seed' (TYPE_INT32), 9",
                                 "status": "INVALID_ARGUMENT"}}]), [], {"seed": SEED % INT32_SEEDS}),
        (CHAT, (400, [{"error": {"message": 'Invalid JSON payload. Unknown name "seed": Cannot find field.'}}]),
         ["seed"], {}),
        (CHAT, make_refusal("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                       "'max_completion_tokens' instead.", param="max_tokens", code="unsupported_parameter"),
         ["max_tokens"], {"max_completion_tokens": 64}),
        (CHAT, make_refusal("Unsupported value: 'temperature' does not support 0.7 with this model. Only the default"
                       " (1) value is supported.", param="temperature", code="unsupported_value"), ["temperature"], {}),
        (CHAT, make_refusal("litellm.UnsupportedParamsError: x does not support parameters: ['temperature', 'top_p']"),
         ["temperature", "top_p"], {}),
        (CHAT, make_refusal("`temperature` and `top_p` cannot both be specified for this model. Please use only one."),
         ["top_p"], {}),
        (CHAT, make_refusal("stop: too many"), [], {"stop": list(STOP_STRINGS[:4])}),
        (CHAT, make_refusal("2 validation errors: {'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a"
                       " valid string'} {'type': 'too_long', 'loc': 'body.stop', 'msg': 'List should have at most 4 "
                       "items after validation, not 5'}", type="BadRequestError"), [],
         {"stop": list(STOP_STRINGS[:4])}),
        (CHAT, make_refusal("Unsupported parameter: 'stop' is not supported with this model.", param="stop"),
         ["stop"], {}),
        (CHAT, make_refusal("System role not supported", type="BadRequestError", code=400), [],
         {"messages": [{"role": "user", "content": "Be terse.\n\n2 + 2?"}]}),
        (CHAT, make_refusal("Developer instruction is not enabled for models/gemma-3-4b-it"), [],
         {"messages": [{"role": "user", "content": "Be terse.\n\n2 + 2?"}]}),
        (RESPONSES, make_refusal("Unsupported parameter: 'temperature' is not supported with this model.",
                            param="temperature"), ["temperature"], {}),
        (MESSAGES, (400, {"type": "error", "error": {"type": "invalid_request_error", "message":
                    "`temperature` and `top_p` cannot both be specified for this model. Please use only one."}}),
         ["top_p"], {}),
        (MESSAGES, (400, {"type": "error", "error": {"type": "invalid_request_error", "message":
                    "`temperature` is deprecated for this model."}}), ["temperature"], {}),
    ],
)  # fmt: skip
def test_refused_parameter_is_omitted_or_changed_in_later_requests_and_reported_once(
    server: Any,
    caplog: Any,
    client_class: Any,
    refusal: tuple[int, Any],
    removed_names: list[str],
    added_parameters: dict[str, Any],
) -> None:
    faults: list[Fault] = []
    server.answer(refusal, (200, GOOD_REPLY))
    with reporting_faults(faults.append), caplog.at_level(logging.WARNING):
        send = Send.model_validate(Send().model_dump())  # a run stores and reloads the settings
        replies = ask(client_class("m", server.url, send=send), times=2)
    assert [reply.text for reply in replies] == ["yes", "yes"]
    first_body, *later_bodies = server.bodies
    assert set(removed_names) <= set(first_body)
    remaining_parameters = {name: value for name, value in first_body.items() if name not in removed_names}
    assert later_bodies == [remaining_parameters | added_parameters] * 2
    assert [fault.kind for fault in faults] == ["refused_parameter"]
    assert "later requests use send = {" in faults[0].message
    assert caplog.text.count("later requests use send = {") == 1


def test_concurrent_refusals_are_reported_once(server: Any) -> None:
    faults: list[Fault] = []
    server.choose = lambda body: (422, {"detail": [SEED_ERROR]}) if "seed" in body else (200, GOOD_REPLY)

    async def send_concurrently() -> list[ChatReply]:
        endpoint = OpenAIChatEndpoint("m", server.url)
        try:
            request = ChatRequest(endpoint.identity, (Message("user", "hi"),), seed=SEED)
            replies = await asyncio.gather(*(endpoint.chat(request) for _ in range(16)))
            return [*replies, await endpoint.chat(request)]
        finally:
            await endpoint.close()

    with reporting_faults(faults.append):
        assert [reply.text for reply in asyncio.run(send_concurrently())] == ["yes"] * 17
    assert [fault.kind for fault in faults] == ["refused_parameter"]
    assert "seed" not in server.bodies[-1]
    assert len(server.bodies) <= 33, "some of the 16 concurrent requests were refused more than once"


def test_refused_parameters_are_changed_one_after_another(server: Any) -> None:
    server.answer(
        make_refusal("'max_tokens' is not supported here. Use 'max_completion_tokens' instead.", param="max_tokens"),
        make_refusal("Unsupported value: 'temperature' does not support 0.7 with this model.", param="temperature"),
        make_refusal("Unsupported parameter: 'top_p' is not supported with this model.", param="top_p"),
        (200, GOOD_REPLY),
    )  # fmt: skip
    endpoint = OpenAIChatEndpoint("my-deployment", server.url)
    ask(endpoint)
    assert len(server.bodies) == 4 and not {"temperature", "top_p", "max_tokens"} & set(server.bodies[-1])
    assert (endpoint.accepted.temperature, endpoint.accepted.max_tokens) == (False, "max_completion_tokens")


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 4321 tokens. Please reduce the "
        "length of the messages or completion.",
        "max_tokens is too large: 64. This model supports at most 32 completion tokens.",
        "temperature must be strictly positive",
        "The response was filtered: your seed phrase is not allowed",
    ],
)  # fmt: skip
def test_refusal_for_another_reason_changes_no_parameter(server: Any, message: str) -> None:
    server.answer(make_refusal(message))
    endpoint = OpenAIChatEndpoint("m", server.url)
    accepted_before = endpoint.accepted
    with pytest.raises(EndpointError, match=r"answered 400: "):
        ask(endpoint)
    assert endpoint.accepted == accepted_before
    assert len(server.bodies) <= 2, "the request was retried more than once without the parameter"


def test_refusal_does_not_change_a_parameter_that_send_requires(server: Any) -> None:
    server.answer((422, {"detail": [SEED_ERROR]}))
    with pytest.raises(EndpointError, match=r"answered 422: body\.seed: Extra inputs"):
        ask(OpenAIChatEndpoint("m", server.url, send=Send(seed=True)))
    assert len(server.bodies) == 1


def test_refusal_of_both_max_tokens_names_ends_the_retries(server: Any) -> None:
    server.answer(
        *[make_refusal("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.", param="max_tokens"),
          make_refusal("Unrecognized request argument supplied: max_completion_tokens")] * 5
    )  # fmt: skip
    with pytest.raises(EndpointError, match="answered 400"):
        ask(OpenAIChatEndpoint("m", server.url))
    assert len(server.bodies) == 2


# URLs


@pytest.mark.parametrize("client_class", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize(
    ("url", "message", "fix"),
    [
        ("http://127.0.0.1:99999/v1", "no valid port", "from 1 to 65535"),
        ("http://127.0.0.1:0/v1", "no valid port", "from 1 to 65535"),
        ("http://127.0.0.1:8000/v1/chat/completions", "ends in /chat/completions", 'url = "http://127.0.0.1:8000/v1"'),
        ("http://127.0.0.1:8000/v1/messages/", "ends in /messages", 'url = "http://127.0.0.1:8000/v1"'),
    ],
)
def test_url_with_a_route_or_an_invalid_port_is_refused(client_class: Any, url: str, message: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        client_class("m", url)
    assert fix in error.value.fix


def test_url_without_a_port_is_accepted() -> None:
    check_address("https://gateway.example/openai/v1")
