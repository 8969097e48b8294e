"""The client for servers that speak the OpenAI chat completions protocol (vLLM, or a hosted service), through the
openai SDK.
"""

from types import ModuleType
from typing import Any

from nanoflux_local.endpoints.remote.accepted import AcceptedParameters
from nanoflux_local.endpoints.remote.keys import ApiKey
from nanoflux_local.endpoints.remote.served import (
    ParsedReply,
    RequestBody,
    ServedEndpoint,
    build_client_options,
    build_sections_schema,
    build_timeout,
)
from nanoflux_local.endpoints.remote.shapes import (
    NO_TEXT,
    check_error,
    check_tool_call,
    read_content,
    read_finish,
    read_token_count,
    value_at,
)
from nanoflux_local.records import ChatRequest, Finish

REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")
"""The keys under which servers send the reasoning in a message."""


class OpenAIChatEndpoint(ServedEndpoint):
    """A model behind a server's `/v1/chat/completions`. Its replies are not repeatable, since they can depend on the
    server's batches.
    """

    interface = "openai_chat"

    @staticmethod
    def sdk() -> ModuleType:
        import openai

        return openai

    @staticmethod
    def connect(url: str, key: ApiKey) -> Any:
        import openai

        client = openai.AsyncOpenAI(base_url=url, api_key=key.text or "none", **build_client_options(openai, url))
        return client.with_options(set_default_headers={})  # headers set in the environment are for another server

    @staticmethod
    async def post(client: Any, body: RequestBody, timeout_s: float) -> Any:
        return await client.chat.completions.with_raw_response.create(**body, timeout=build_timeout(timeout_s))

    def build_body(self, request: ChatRequest, accepted: AcceptedParameters) -> RequestBody:
        sampling = request.sampling
        body: RequestBody = {
            "model": request.endpoint.model,
            "messages": [
                {"role": message.role, "content": message.content} for message in accepted.messages(request.messages)
            ],
            **accepted.sampling_parameters(sampling),
            accepted.max_tokens: sampling.max_tokens,
            **accepted.seed_parameter(request.seed),
        }
        stop = accepted.stop_strings(sampling.stop)
        if stop:
            body["stop"] = stop
        if request.sections:
            schema = {"name": "sections", "strict": True, "schema": build_sections_schema(request.sections)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def parse_reply(self, body: Any) -> ParsedReply:
        check_error(body, "choices")
        choice = value_at(body, "choices", 0)
        message = value_at(choice, "message")
        if not isinstance(message, dict):
            raise ValueError(NO_TEXT)
        check_error({"error": choice.get("error")}, "choices")  # some gateways put an upstream error into the choice
        content = read_content(message.get("content"))
        finish_reason = choice.get("finish_reason")
        refusal = content.refusal or message.get("refusal")  # the provider's explanation instead of an answer
        if not content.text and not refusal:
            check_tool_call(finish_reason, message.get("tool_calls"), message.get("function_call"))
        text = content.text or ""
        finish: Finish
        if not text and isinstance(refusal, str) and refusal:
            text, finish = refusal, "refused"
        else:
            finish = read_finish(finish_reason)
        return ParsedReply(
            text,
            finish,
            prompt_tokens=read_token_count(body, "usage", "prompt_tokens"),
            completion_tokens=read_token_count(body, "usage", "completion_tokens"),
            cached_tokens=read_token_count(body, "usage", "prompt_tokens_details", "cached_tokens"),
            reasoning=content.reasoning or _read_reasoning(message),
            reasoning_tokens=read_token_count(body, "usage", "completion_tokens_details", "reasoning_tokens"),
        )


def _read_reasoning(message: dict[str, Any]) -> str:
    """The reasoning under the first of `REASONING_KEYS` that has a text; "" if there is none."""
    for key in REASONING_KEYS:
        reasoning = message.get(key)
        if isinstance(reasoning, str) and reasoning:
            return reasoning
    return ""
