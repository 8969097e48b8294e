"""The client for servers that speak the Anthropic messages protocol (Claude, or vLLM), through the anthropic SDK.

The protocol has no seed, so repeats of a request differ only in their ledger key.
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
from nanoflux_local.records import ChatRequest


class AnthropicMessagesEndpoint(ServedEndpoint):
    """A model behind a server's `/v1/messages`. The url may end in /v1, as for other endpoints."""

    interface = "anthropic_messages"
    default_url = "https://api.anthropic.com/v1"

    @staticmethod
    def sdk() -> ModuleType:
        import anthropic

        return anthropic

    @staticmethod
    def connect(url: str, key: ApiKey) -> Any:
        import anthropic

        base_url = url.rstrip("/").removesuffix("/v1")  # the SDK appends /v1
        client = anthropic.AsyncAnthropic(
            base_url=base_url, api_key=key.text or "none", **build_client_options(anthropic, url)
        )
        return client.with_options(set_default_headers={})  # headers set in the environment are for another server

    @staticmethod
    async def post(client: Any, body: RequestBody, timeout_s: float) -> Any:
        return await client.messages.with_raw_response.create(**body, timeout=build_timeout(timeout_s))

    def build_body(self, request: ChatRequest, accepted: AcceptedParameters) -> RequestBody:
        sampling = request.sampling
        messages = accepted.messages(request.messages)
        system_text = "\n\n".join(message.content for message in messages if message.role == "system")
        body: RequestBody = {
            "model": request.endpoint.model,
            "messages": [
                {"role": message.role, "content": message.content} for message in messages if message.role != "system"
            ],
            "max_tokens": sampling.max_tokens,
            # The sampling parameters are in `extra_body`, since the SDK's types allow none for current models.
            "extra_body": accepted.sampling_parameters(sampling),
        }
        if system_text:
            body["system"] = system_text
        # The server refuses blank stop strings.
        nonblank_stop_strings = tuple(stop_string for stop_string in sampling.stop if stop_string.strip())
        stop = accepted.stop_strings(nonblank_stop_strings)
        if stop:
            body["stop_sequences"] = stop
        if request.sections:
            reply_format = {"type": "json_schema", "schema": build_sections_schema(request.sections)}
            body["output_config"] = {"format": reply_format}
        return body

    def parse_reply(self, body: Any) -> ParsedReply:
        check_error(body, "content")
        blocks, stop_reason = value_at(body, "content"), value_at(body, "stop_reason")
        if not isinstance(blocks, (list, str)):
            raise ValueError(NO_TEXT)
        content = read_content(blocks)
        if not content.text:
            tool_calls = [block for block in blocks if value_at(block, "type") == "tool_use"]
            check_tool_call(stop_reason, tool_calls)
        # "input_tokens" excludes the prompt tokens that the server wrote to its cache or read from it.
        cached_tokens = read_token_count(body, "usage", "cache_read_input_tokens")
        prompt_tokens = (
            read_token_count(body, "usage", "input_tokens")
            + read_token_count(body, "usage", "cache_creation_input_tokens")
            + cached_tokens
        )
        return ParsedReply(
            content.text or "",
            read_finish(stop_reason),
            prompt_tokens=prompt_tokens,
            completion_tokens=read_token_count(body, "usage", "output_tokens"),
            cached_tokens=cached_tokens,
            reasoning=content.reasoning,
        )
