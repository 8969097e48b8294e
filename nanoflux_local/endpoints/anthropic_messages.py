"""Servers that speak the Anthropic messages protocol, through the anthropic SDK: Claude, or vLLM.

The protocol has no seed: repeats are told apart by the ledger alone.
"""

from types import ModuleType
from typing import Any

from nanoflux_local.endpoints.keys import Key
from nanoflux_local.endpoints.quirks import sampled
from nanoflux_local.endpoints.served import Said, ServedEndpoint, as_object, at, client_options, count, limits
from nanoflux_local.records import ChatRequest, Finish

FINISHES: dict[Any, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refused",
}


class AnthropicMessagesEndpoint(ServedEndpoint):
    """A model behind a server's `/v1/messages`. Its address may end in /v1 like the others'."""

    interface = "anthropic_messages"
    home = "https://api.anthropic.com/v1"

    @staticmethod
    def sdk() -> ModuleType:
        import anthropic

        return anthropic

    @staticmethod
    def connect(url: str, key: Key) -> Any:
        import anthropic

        base = url.rstrip("/").removesuffix("/v1")  # the SDK brings its own
        client = anthropic.AsyncAnthropic(base_url=base, api_key=key.text or "none", **client_options(anthropic, url))
        return client.with_options(set_default_headers={})  # a header in the environment is another server's

    @staticmethod
    async def post(client: Any, body: dict[str, Any], limit_s: float) -> Any:
        return await client.messages.with_raw_response.create(**body, timeout=limits(limit_s))

    def body(self, request: ChatRequest) -> dict[str, Any]:
        model, sampling = request.endpoint.model, request.sampling
        system = "\n\n".join(message.content for message in request.messages if message.role == "system")
        said = [message for message in request.messages if message.role != "system"]
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in said],
            "max_tokens": sampling.max_tokens,
            "extra_body": sampled(model, sampling),  # the SDK knows only models that take none
        }
        if system:
            body["system"] = system
        stop = [string for string in sampling.stop if string.strip()]  # others are an error there, and are cut at here
        if stop and not self.thinks:
            body["stop_sequences"] = stop
        if request.sections:
            body["output_config"] = {"format": {"type": "json_schema", "schema": as_object(request.sections)}}
        return body

    def read(self, body: Any) -> Said:
        blocks, ended = at(body, "content"), at(body, "stop_reason")
        if not isinstance(blocks, list):
            raise ValueError("a response without text")
        if ended not in FINISHES:
            raise ValueError(f"a reply that ended with {ended!r}")
        texts = {
            kind: [at(block, kind) for block in blocks if at(block, "type") == kind] for kind in ("text", "thinking")
        }
        if not all(isinstance(text, str) for told in texts.values() for text in told):
            raise ValueError("a response without text")
        # What was written to a cache and read from it is counted apart there, and is part of the prompt all the same.
        cached = count(body, "usage", "cache_read_input_tokens")
        read = count(body, "usage", "input_tokens") + count(body, "usage", "cache_creation_input_tokens") + cached
        return Said(
            "".join(texts["text"]),
            FINISHES[ended],
            read,
            count(body, "usage", "output_tokens"),
            cached,
            "\n".join(texts["thinking"]),
        )
