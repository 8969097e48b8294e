"""Any server that speaks the OpenAI chat completions protocol, through the openai SDK: vLLM, or a hosted one."""

from types import ModuleType
from typing import Any

from nanoflux_local.endpoints.keys import Key
from nanoflux_local.endpoints.quirks import sampled, takes
from nanoflux_local.endpoints.served import Said, ServedEndpoint, as_object, at, client_options, count, limits
from nanoflux_local.records import ChatRequest, Finish

FINISHES: dict[Any, Finish] = {"stop": "stop", "length": "length", "content_filter": "refused"}


class OpenAIChatEndpoint(ServedEndpoint):
    """A model behind a server's `/v1/chat/completions`. It promises no repeats: such a server batches as it likes."""

    interface = "openai_chat"

    @staticmethod
    def sdk() -> ModuleType:
        import openai

        return openai

    @staticmethod
    def connect(url: str, key: Key) -> Any:
        import openai

        client = openai.AsyncOpenAI(base_url=url, api_key=key.text or "none", **client_options(openai, url))
        return client.with_options(set_default_headers={})  # a header in the environment is another server's

    @staticmethod
    async def post(client: Any, body: dict[str, Any], limit_s: float) -> Any:
        return await client.chat.completions.with_raw_response.create(**body, timeout=limits(limit_s))

    def body(self, request: ChatRequest) -> dict[str, Any]:
        model, sampling = request.endpoint.model, request.sampling
        what = takes(model)
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            **sampled(model, sampling),
            what.max_tokens: sampling.max_tokens,
            "seed": request.seed,
        }
        if sampling.stop and what.stop and not self.thinks:
            body["stop"] = list(sampling.stop)
        if request.sections:
            schema = {"name": "sections", "strict": True, "schema": as_object(request.sections)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def read(self, body: Any) -> Said:
        choice = at(body, "choices", 0)
        text, ended = at(choice, "message", "content"), at(choice, "finish_reason")
        thoughts = at(choice, "message", "reasoning") or at(choice, "message", "reasoning_content")
        refusal = at(choice, "message", "refusal")
        if text is None and (isinstance(refusal, str) or (isinstance(thoughts, str) and ended in FINISHES)):
            text, ended = refusal or "", "content_filter" if refusal else ended
        if not isinstance(text, str):
            raise ValueError("a response without text")
        if ended not in FINISHES:
            raise ValueError(f"a reply that ended with {ended!r}")
        return Said(
            text,
            FINISHES[ended],
            count(body, "usage", "prompt_tokens"),
            count(body, "usage", "completion_tokens"),
            count(body, "usage", "prompt_tokens_details", "cached_tokens"),
            thoughts if isinstance(thoughts, str) else "",
            count(body, "usage", "completion_tokens_details", "reasoning_tokens"),
        )
