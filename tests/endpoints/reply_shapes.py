"""Replies in the formats of fourteen servers, each with the outcome that a client should derive from it.

The formats come from the servers' documentation and public bug reports; ids and most texts are invented.
"""

from dataclasses import dataclass
from typing import Any, Literal

Protocol = Literal["chat", "responses", "messages"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """The outcome of a usable reply: it is accepted without a retry. `tokens` are its prompt and completion tokens."""

    text: str
    finish: str = "stop"
    reasoning: str = ""
    tokens: tuple[int, int] = (12, 3)


@dataclass(frozen=True, slots=True)
class Empty:
    """The outcome of an empty reply: the request is retried a few times, then the reply is accepted."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The outcome of a permanent refusal: the request is not retried, and the error contains `message_part`."""

    message_part: str


@dataclass(frozen=True, slots=True)
class Retry:
    """The outcome of a temporary failure: the request is retried, and a fault of the given kind is reported, whose
    message contains `message_part`.
    """

    kind: str
    message_part: str = ""


Outcome = Read | Empty | Refused | Retry


@dataclass(frozen=True, slots=True)
class Shape:
    """A reply of a server: its HTTP status, its body (bytes, or a value to encode as JSON), and the expected outcome.
    `name` describes what is special about the reply.
    """

    server: str
    name: str
    protocol: Protocol
    status: int
    body: Any
    outcome: Outcome


# Builders of replies and their parts


USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


def chat(message: Json, finish: Any = "stop", usage: Any = USAGE, **fields: Any) -> Json:
    """A reply in the chat completions protocol, with additional `fields`."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
            "usage": usage, **fields}  # fmt: skip


def response(output: list[Json], status: str = "completed", **fields: Any) -> Json:
    """A reply in the responses protocol, with additional `fields`."""
    return {"id": "r-1", "object": "response", "created_at": 1, "status": status, "error": None, "output": output,
            "incomplete_details": None, "metadata": {}, "reasoning": {"effort": "medium", "summary": None},
            "usage": {"input_tokens": 12, "output_tokens": 3, "total_tokens": 15}, **fields}  # fmt: skip


def message_item(*parts: Json, status: str = "completed") -> Json:
    """A message in the output of a reply in the responses protocol."""
    return {"type": "message", "id": "m-1", "role": "assistant", "status": status, "content": list(parts)}


def output_text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def messages(content: Any, reason: Any = "end_turn", **fields: Any) -> Json:
    """A reply in the Anthropic messages protocol, with additional `fields`."""
    return {"id": "msg-1", "type": "message", "role": "assistant", "model": "m", "content": content,
            "stop_reason": reason, "stop_sequence": None, "usage": {"input_tokens": 12, "output_tokens": 3},
            **fields}  # fmt: skip


def error(message: Any, **fields: Any) -> Json:
    """The body of an error response in OpenAI's format, with additional `fields` of the error."""
    return {"error": {"message": message, **fields}}


TOOL_CALLS = [{"id": "t-1", "type": "function", "function": {"name": "python", "arguments": "{}"}}]
OK = "ANSWER: 18"
"""The text of a usable reply. Replies that end early have only its beginning, "ANSW", as text."""
THINKING = {"type": "thinking", "thinking": "hm", "signature": "s"}
"""A reasoning block in the Anthropic messages protocol."""
OVERLONG = "This model's maximum context length is 4096 tokens. However, you requested 4321 tokens."

# Each shape is a tuple of its name, the HTTP status, the body, and the expected outcome.
OPENAI_CHAT = [
    ("good", 200, chat({"content": OK, "refusal": None, "annotations": []}, service_tier="default"), Read(OK)),
    ("truncated", 200, chat({"content": "ANSW", "refusal": None}, "length"), Read("ANSW", "length")),
    ("truncated before its first word", 200, chat({"content": "", "refusal": None}, "length"), Read("", "length")),
    ("refusal", 200, chat({"content": None, "refusal": "I can't."}), Read("I can't.", "refused")),
    ("filtered", 200, chat({"content": None}, "content_filter"), Read("", "refused")),
    ("tool call", 200, chat({"content": None, "tool_calls": TOOL_CALLS}, "tool_calls"), Refused("the tool 'python'")),
    ("tool call after a text", 200, chat({"content": OK, "tool_calls": TOOL_CALLS}, "tool_calls"), Read(OK)),
    ("old function call", 200, chat({"content": None, "function_call": {"name": "f", "arguments": "{}"}},
                                    "function_call"), Refused("the tool 'f'")),
    ("busy", 429, error("Rate limit reached", type="requests", code="rate_limit_exceeded"), Retry("rate_limited")),
    ("no credit", 429, error("You exceeded your current quota", type="insufficient_quota",
                             code="insufficient_quota"), Refused("exceeded your current quota")),
    ("wrong key", 401, error("Incorrect API key provided", code="invalid_api_key"), Refused("Incorrect API key")),
    ("too long", 400, error(OVERLONG, code="context_length_exceeded", param="messages"), Refused(OVERLONG)),
    ("server error", 500, error("The server had an error", type="server_error"), Retry("server_error", "had an error")),
]  # fmt: skip
OPENAI_RESPONSES = [
    ("good", 200, response([message_item(output_text(OK))]), Read(OK)),
    ("with reasoning", 200, response([{"type": "reasoning", "id": "x", "summary":
     [{"type": "summary_text", "text": "hm"}]}, message_item(output_text(OK))]), Read(OK, reasoning="hm")),
    ("with hidden reasoning", 200, response([{"type": "reasoning", "id": "x", "summary": [], "content": None},
                                            message_item(output_text(OK))]), Read(OK)),
    ("two texts", 200, response([message_item(output_text("ANSWER: "), output_text("18"))]), Read(OK)),
    ("truncated", 200, response([message_item(output_text("ANSW"), status="incomplete")], "incomplete",
                          incomplete_details={"reason": "max_output_tokens"}), Read("ANSW", "length")),
    ("truncated in its reasoning", 200, response([{"type": "reasoning", "id": "x", "summary": []}], "incomplete",
                                           incomplete_details={"reason": "max_output_tokens"}), Read("", "length")),
    ("truncated without a reason", 200, response([message_item(output_text("ANSW"))], "incomplete"),
     Read("ANSW", "length")),
    ("filtered", 200, response([message_item(output_text("ANSW"))], "incomplete",
                               incomplete_details={"reason": "content_filter"}), Read("ANSW", "refused")),
    ("refusal", 200, response([message_item({"type": "refusal", "refusal": "I can't."})]), Read("I can't.", "refused")),
    ("reasoning alone", 200, response([{"type": "reasoning", "id": "x", "summary": []}]), Empty()),
    ("nothing", 200, response([]), Empty()),
    ("tool call", 200, response([{"type": "function_call", "id": "f", "call_id": "c", "name": "python",
                                  "arguments": "{}"}]), Refused("the tool 'python'")),
    ("failed", 200, response([], "failed", error={"code": "server_error", "message": "x went wrong"}),
     Retry("server_error", "x went wrong")),
    ("failed in the middle", 200, response([message_item(output_text("ANSW"))], "failed",
                                           error={"code": "server_error", "message": "x"}), Retry("server_error")),
    ("busy with status 200", 200, response([], "failed", error={"code": "rate_limit_exceeded", "message": "slow"}),
     Retry("rate_limited")),
    ("flagged", 200, response([], "failed", error={"code": "invalid_prompt", "message": "flagged"}),
     Refused("flagged")),
    ("still queued", 200, response([], "queued"), Retry("garbled", "status 'queued'")),
    ("invalid prompt", 400, error("Invalid prompt: flagged", type="invalid_request_error", code="invalid_prompt"),
     Refused("Invalid prompt: flagged")),
]  # fmt: skip
FILTERS = {"hate": {"filtered": False, "severity": "safe"}}
"""The results of Azure's content filter."""
AZURE = [
    ("good", 200, chat({"content": OK}, prompt_filter_results=[{"prompt_index": 0, "content_filter_results": FILTERS}]),
     Read(OK)),
    ("filtered in the middle", 200, chat({"content": "ANSW"}, "content_filter"), Read("ANSW", "refused")),
    ("filtered prompt", 400, error("The response was filtered due to the prompt triggering Azure OpenAI's content "
     "management policy.", type=None, param="prompt", code="content_filter", status=400,
     innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": FILTERS}),
     Refused("was filtered due")),
    ("no such deployment", 404, error("The API deployment for this resource does not exist.",
                                      code="DeploymentNotFound"), Refused("deployment for this resource")),
    ("wrong path", 404, {"statusCode": 404, "message": "Resource not found"}, Refused("Resource not found")),
    ("busy", 429, error("Requests have exceeded call rate limit", code="429"), Retry("rate_limited")),
]  # fmt: skip
ANTHROPIC = [
    ("good", 200, messages([{"type": "text", "text": OK}]), Read(OK)),
    ("with reasoning", 200, messages([THINKING, {"type": "redacted_thinking", "data": "x"},
                                     {"type": "text", "text": OK}]), Read(OK, reasoning="hm")),
    ("stop sequence", 200, messages([{"type": "text", "text": OK}], "stop_sequence"), Read(OK)),
    ("truncated", 200, messages([{"type": "text", "text": "ANSW"}], "max_tokens"), Read("ANSW", "length")),
    ("truncated in its reasoning", 200, messages([THINKING], "max_tokens"), Read("", "length", "hm")),
    ("context full", 200, messages([{"type": "text", "text": "A"}], "model_context_window_exceeded"),
     Read("A", "length")),
    ("refusal", 200, messages([], "refusal"), Read("", "refused")),
    ("pause", 200, messages([{"type": "text", "text": OK}], "pause_turn"), Read(OK)),
    ("nothing", 200, messages([]), Empty()),
    ("tool use", 200, messages([{"type": "tool_use", "id": "t", "name": "python", "input": {}}], "tool_use"),
     Refused("the tool 'python'")),
    ("overloaded", 529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
     Retry("rate_limited")),
    ("overloaded with status 200", 200, {"type": "error", "error": {"type": "overloaded_error",
                                             "message": "Overloaded"}}, Retry("rate_limited")),
    ("too long", 400, {"type": "error", "error": {"type": "invalid_request_error",
     "message": "prompt is too long: 203456 tokens > 200000 maximum"}}, Refused("prompt is too long")),
    ("no credit", 400, {"type": "error", "error": {"type": "invalid_request_error",
     "message": "Your credit balance is too low to access the Anthropic API."}}, Refused("credit balance is too low")),
]  # fmt: skip
BEDROCK = [
    ("good", 200, messages([{"type": "text", "text": OK}], amazon_bedrock_trace={}), Read(OK)),
    ("guardrail", 200, messages([{"type": "text", "text": "Blocked."}], "guardrail_intervened"),
     Read("Blocked.", "refused")),
    ("no finish reason", 200, messages([{"type": "text", "text": OK}], None), Read(OK)),
    ("throttled", 429, {"message": "Too many tokens, please wait before trying again."}, Retry("rate_limited")),
    ("wrong model", 400, {"message": "The provided model identifier is invalid."}, Refused("identifier is invalid")),
    ("not ready", 503, {"Message": "Bedrock is unable to process your request."}, Retry("server_error", "unable to")),
]  # fmt: skip
GEMINI = [
    ("good", 200, chat({"content": OK}, usage={"completion_tokens": 3, "prompt_tokens": 12, "total_tokens": 90}),
     Read(OK)),
    ("truncated in its reasoning", 200, chat({}, "length", {"prompt_tokens": 12, "total_tokens": 2060}),
     Read("", "length", tokens=(12, 0))),
    ("finish reason in capitals", 200, chat({"content": "ANSW"}, "MAX_TOKENS"), Read("ANSW", "length")),
    ("withheld", 200, chat({"content": None}, "content_filter: PROHIBITED_CONTENT"), Read("", "refused")),
    ("recited", 200, chat({"content": ""}, "RECITATION"), Read("", "refused")),
    ("nothing", 200, chat({}, "stop"), Empty()),
    ("wrong argument", 400, [error("Request contains an invalid argument.", code=400, status="INVALID_ARGUMENT")],
     Refused("invalid argument")),
    ("busy", 429, [error("Resource has been exhausted", code=429, status="RESOURCE_EXHAUSTED")], Retry("rate_limited")),
    ("overloaded", 503, [error("The model is overloaded.", code=503, status="UNAVAILABLE")], Retry("server_error")),
]  # fmt: skip
MISTRAL = [
    ("good", 200, chat({"content": OK, "tool_calls": None, "prefix": False}), Read(OK)),
    ("parts", 200, chat({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True},
                                     {"type": "text", "text": OK}]}), Read(OK, reasoning="hm")),
    ("parts with references", 200, chat({"content": [{"type": "text", "text": "ANSWER: "},
     {"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "18"}]}), Read(OK)),
    ("reasoning alone", 200, chat({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
                                 "length"), Read("", "length", "hm")),
    ("truncated", 200, chat({"content": "ANSW"}, "model_length"), Read("ANSW", "length")),
    ("failed", 200, chat({"content": ""}, "error"), Retry("server_error", "'error'")),
    ("extra key", 422, {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "foo"],
     "msg": "Extra inputs are not permitted"}]}, "type": "invalid_request_error"}, Refused("body.foo: Extra inputs")),
    ("busy", 429, {"object": "error", "message": "Service tier capacity exceeded", "type": "service_tier_capacity",
                   "code": "3505"}, Retry("rate_limited")),
    ("wrong key", 401, {"detail": "Unauthorized"}, Refused("Unauthorized")),
]  # fmt: skip
REASONING_DETAILS = [{"type": "reasoning.text", "text": "hm", "format": "x", "index": 0}]
OPENROUTER = [
    ("good", 200, chat({"content": OK, "refusal": None, "reasoning": None}, native_finish_reason="stop", provider="P"),
     Read(OK)),
    ("with reasoning", 200, chat({"content": OK, "reasoning": "hm", "reasoning_details": REASONING_DETAILS}),
     Read(OK, reasoning="hm")),
    ("truncated in its reasoning", 200, chat({"content": None, "reasoning": "hm"}, "length"), Read("", "length", "hm")),
    ("no finish reason", 200, chat({"content": OK}, None), Read(OK)),
    ("upstream busy with status 200", 200, {"id": None, "choices": None, "usage": None,
     **error("Provider returned error", code=429)}, Retry("rate_limited")),
    ("upstream down with status 200", 200, {**error("Provider returned error", code=502)},
     Retry("server_error", "Provider returned error")),
    ("flagged with status 200", 200, error("Your input was flagged", code=403, metadata={"reasons": ["x"]}),
     Refused("Your input was flagged")),
    ("error in the choice", 200, {**chat({"content": ""}, "error"), "choices": [{"error": {"code": 502, "message":
     "upstream reset"}, "finish_reason": "error", "message": {"role": "assistant", "content": ""}}]},
     Retry("server_error", "upstream reset")),
    ("upstream's message", 400, error("Provider returned error", code=400, metadata={"provider_name": "P", "raw":
     "{\"error\": {\"message\": \"prompt too large\"}}"}), Refused("prompt too large")),
    ("no credit", 402, error("Insufficient credits", code=402), Refused("Insufficient credits")),
    ("keep-alive comments", 200, b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"
     b'{"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}', Read("yes", tokens=(0, 0))),
]  # fmt: skip
VLLM = [
    ("good", 200, chat({"content": OK, "refusal": None, "tool_calls": [], "reasoning": None, "reasoning_content": None},
                       prompt_logprobs=None, kv_transfer_params=None), Read(OK)),
    ("with reasoning", 200, chat({"content": OK, "reasoning": "hm"}), Read(OK, reasoning="hm")),
    ("with reasoning, older", 200, chat({"content": OK, "reasoning_content": "hm"}), Read(OK, reasoning="hm")),
    ("only an end-of-text token", 200, chat({"content": None, "reasoning": None, "tool_calls": []}), Empty()),
    ("empty text", 200, chat({"content": "", "reasoning": None}), Empty()),
    ("only an end-of-reasoning token", 200, chat({"content": None, "reasoning": ""}), Empty()),
    ("only an end-of-channel token", 200, chat({"content": None, "reasoning": None, "reasoning_content": None}),
     Empty()),
    ("only an end-of-channel token, as text", 200, chat({"content": "<|return|>", "reasoning": None}), Empty()),
    ("stopped in its reasoning", 200, chat({"content": None, "reasoning": "hm"}), Empty()),
    ("truncated in its reasoning", 200, chat({"content": None, "reasoning": "hm"}, "length"), Read("", "length", "hm")),
    ("aborted", 200, chat({"content": "AN"}, "abort"), Retry("server_error", "'abort'")),
    ("too long", 400, error(OVERLONG, type="BadRequestError", param=None, code=400), Refused(OVERLONG)),
    ("too long, older", 400, {"object": "error", "message": OVERLONG, "type": "BadRequestError", "param": None,
                              "code": 400}, Refused(OVERLONG)),
    ("no such model", 404, error("The model `m` does not exist.", type="NotFoundError", code=404),
     Refused("does not exist")),
    ("dead engine", 500, error("EngineCore encountered an issue", type="InternalServerError", code=500),
     Retry("server_error")),
]  # fmt: skip
LLAMA_CPP = [
    ("good", 200, chat({"content": OK}, timings={"prompt_n": 12, "predicted_ms": 1.5}, system_fingerprint="b1"),
     Read(OK)),
    ("with reasoning", 200, chat({"reasoning_content": "hm", "content": OK}), Read(OK, reasoning="hm")),
    ("old finish reason", 200, chat({"content": OK}, "eos"), Read(OK)),
    ("loading", 503, error("Loading model", type="unavailable_error", code=503),
     Retry("server_error", "Loading model")),
    ("too long", 400, error("the request exceeds the available context size", type="exceed_context_size_error",
                            code=400, n_prompt_tokens=9, n_ctx=8), Refused("exceeds the available context")),
    ("broken template", 500, error("Value is not callable: null", type="server_error", code=500),
     Retry("server_error")),
]  # fmt: skip
OLLAMA = [
    ("good", 200, chat({"content": OK}, system_fingerprint="fp_ollama"), Read(OK)),
    ("with reasoning", 200, chat({"content": OK, "reasoning": "hm"}), Read(OK, reasoning="hm")),
    ("model load without text", 200, chat({"content": ""}, "load"), Empty()),
    ("no tokens counted", 200, chat({"content": OK}, usage={"prompt_tokens": 0, "completion_tokens": 0}),
     Read(OK, tokens=(0, 0))),
    ("no such model", 404, error('model "m" not found, try pulling it first', type="api_error", param=None, code=None),
     Refused("try pulling it first")),
    ("no such model, native", 404, {"error": "model 'm' not found"}, Refused("model 'm' not found")),
    ("dead runner", 500, {"error": "llama runner process has terminated"}, Retry("server_error", "runner process")),
]  # fmt: skip
LM_STUDIO = [
    ("good", 200, chat({"content": OK, "tool_calls": []}, stats={}, system_fingerprint="m"), Read(OK)),
    ("no finish reason", 200, chat({"content": OK}, ""), Read(OK)),
    ("finish reason in camel case", 200, chat({"content": "ANSW"}, "maxPredictedTokensReached"),
     Read("ANSW", "length")),
    ("unknown finish reason", 200, chat({"content": OK}, "eosFound"), Read(OK)),
    ("no model", 404, error("No models loaded. Please load a model.", type="invalid_request_error",
                            code="model_not_found"), Refused("No models loaded")),
    ("error as text with status 200", 200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"},
     Retry("server_error", "Unexpected endpoint")),
    ("failed to load", 400, {"error": "Failed to load model"}, Refused("Failed to load model")),
]  # fmt: skip
LITELLM = [
    ("good", 200, chat({"content": OK, "tool_calls": None, "function_call": None, "provider_specific_fields": None}),
     Read(OK)),
    ("with reasoning", 200, chat({"content": OK, "reasoning_content": "hm", "thinking_blocks": [THINKING]}),
     Read(OK, reasoning="hm")),
    ("counts as strings", 200, chat({"content": OK}, usage={"prompt_tokens": "12", "completion_tokens": 3.0}),
     Read(OK)),
    ("counts below zero", 200, chat({"content": OK}, usage={"prompt_tokens": -1, "completion_tokens": 10**12}),
     Read(OK, tokens=(0, 0))),
    ("responses without a status", 200, {"id": "r", "output": [message_item(output_text(OK))],
     "usage": {"input_tokens": 12, "output_tokens": 3}}, Read(OK)),
    ("nested", 400, error("litellm.BadRequestError: OpenAIException - Error code: 400 - {'error': {'message': 'no'}}",
                          type=None, param=None, code="400"), Refused("litellm.BadRequestError")),
    ("upstream timeout", 408, error("litellm.Timeout: Connection timed out", type=None, code="408"),
     Retry("server_error", "litellm.Timeout")),
    ("budget", 400, error("Budget has been exceeded! Current cost: 1, Max budget: 1", type="budget_exceeded",
                          code="400"), Refused("Budget has been exceeded")),
]  # fmt: skip
PROXIES = [
    ("web page", 502, b"<html><head><title>502 Bad Gateway</title></head></html>",
     Retry("server_error", "502 Bad Gateway")),
    ("web page with status 200", 200, b"<!DOCTYPE html><title>Sign in</title>", Retry("garbled", "Sign in")),
    ("too large", 413, b"<html><h1>413 Request Entity Too Large</h1></html>", Refused("413 Request Entity Too Large")),
    ("byte order mark", 200, b'\xef\xbb\xbf{"choices": [{"message": {"content": "yes"}}]}', Read("yes", tokens=(0, 0))),
    ("blank lines", 200, b'\n\n \n{"choices": [{"message": {"content": "yes"}}]}', Read("yes", tokens=(0, 0))),
    ("stream", 200, b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
     b'data: {"choices": [{"delta": {"content": "ye"}}]}\n\ndata: {"choices": [{"delta": {"content": "s"}, '
     b'"finish_reason": "length"}]}\n\ndata: {"choices": [], "usage": {"prompt_tokens": 12, '
     b'"completion_tokens": 3}}\n\ndata: [DONE]\n\n', Read("yes", "length")),
    ("stream without a finish reason", 200, b'data: {"choices": [{"delta": {"content": "yes"}, "finish_reason": null}]}'
     b"\n\ndata: [DONE]\n\n", Read("yes", tokens=(0, 0))),
    ("broken stream", 200, b'data: {"choices": [{"delta": {"content": "ye"}}]}\n\n', Retry("garbled", "no end")),
    ("half a reply", 200, b'{"choices": [{"message": {"cont', Retry("garbled")),
    ("nested too deeply", 200, b"[" * 200_000, Retry("garbled", "nested too deeply")),
    ("a number of 5000 digits", 200, b'{"created": ' + b"9" * 5000 + b', "choices": [{"message": {"content": "yes"}}]}',
     Read("yes", tokens=(0, 0))),
    ("not UTF-8", 200, b'{"choices": [{"message": {"content": "\xe9"}}]}', Retry("garbled", "codec can't decode")),
    ("half a character", 200, b'{"choices": [{"message": {"content": "a\\ud83d"}}]}', Read("a\ud83d", tokens=(0, 0))),
    ("zero bytes", 200, b'{"choices": [{"message": {"content": "a\\u0000b"}}]}', Read("a\0b", tokens=(0, 0))),
    ("nothing", 200, b"", Retry("garbled")),
    ("null", 200, b"null", Retry("garbled", "without text")),
]  # fmt: skip

_SHAPES_BY_SERVER: tuple[tuple[str, Protocol, list[tuple[str, int, Any, Outcome]]], ...] = (
    ("OpenAI", "chat", OPENAI_CHAT),
    ("OpenAI responses", "responses", OPENAI_RESPONSES),
    ("Azure", "chat", AZURE),
    ("Anthropic", "messages", ANTHROPIC),
    ("Bedrock", "messages", BEDROCK),
    ("Gemini", "chat", GEMINI),
    ("Mistral", "chat", MISTRAL),
    ("OpenRouter", "chat", OPENROUTER),
    ("vLLM", "chat", VLLM),
    ("llama.cpp", "chat", LLAMA_CPP),
    ("Ollama", "chat", OLLAMA),
    ("LM Studio", "chat", LM_STUDIO),
    ("LiteLLM", "chat", LITELLM),
    ("proxies", "chat", PROXIES),
)


def make_shape(server: str, protocol: Protocol, name: str, status: int, body: Any, outcome: Outcome) -> Shape:
    """A shape in the server's protocol, or in the responses protocol if `name` starts with "responses"."""
    if name.startswith("responses"):
        protocol = "responses"
    return Shape(server, name, protocol, status, body, outcome)


SHAPES = [make_shape(server, protocol, *entry) for server, protocol, entries in _SHAPES_BY_SERVER for entry in entries]
