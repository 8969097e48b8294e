"""Servers that speak the OpenAI responses protocol, through the openai SDK: the o-series and its successors.

The protocol has neither a seed nor stop strings: repeats are told apart by the ledger alone, and a reply is cut here.
"""

from collections.abc import Iterator
from typing import Any

from nanoflux_local.endpoints.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.quirks import sampled
from nanoflux_local.endpoints.served import Said, as_object, at, count, limits
from nanoflux_local.records import ChatRequest, Finish

CUT_BY: dict[Any, Finish] = {"max_output_tokens": "length", "content_filter": "refused"}


class OpenAIResponsesEndpoint(OpenAIChatEndpoint):
    """A model behind a server's `/v1/responses`. Nothing is stored there."""

    interface = "openai_responses"
    home = "https://api.openai.com/v1"

    @staticmethod
    async def post(client: Any, body: dict[str, Any], limit_s: float) -> Any:
        return await client.responses.with_raw_response.create(**body, timeout=limits(limit_s))

    def body(self, request: ChatRequest) -> dict[str, Any]:
        model = request.endpoint.model
        body: dict[str, Any] = {
            "model": model,
            "input": [{"role": message.role, "content": message.content} for message in request.messages],
            **sampled(model, request.sampling),
            "max_output_tokens": request.sampling.max_tokens,
            "store": False,
        }
        if request.sections:
            form = {"type": "json_schema", "name": "sections", "strict": True, "schema": as_object(request.sections)}
            body["text"] = {"format": form}
        return body

    def read(self, body: Any) -> Said:
        parts = list(_parts(at(body, "output")))
        finish = self._finish(body, refused=any(kind == "refusal" for kind, _ in parts))
        if finish == "stop" and not any(kind == "output_text" for kind, _ in parts):
            raise ValueError("a response without text")
        return Said(
            "".join(text for kind, text in parts if kind in ("output_text", "refusal")),
            finish,
            count(body, "usage", "input_tokens"),
            count(body, "usage", "output_tokens"),
            count(body, "usage", "input_tokens_details", "cached_tokens"),
            "\n".join(text for kind, text in parts if kind in ("reasoning_text", "summary_text")),
            count(body, "usage", "output_tokens_details", "reasoning_tokens"),
        )

    def _finish(self, body: Any, refused: bool) -> Finish:
        status, reason = at(body, "status"), at(body, "incomplete_details", "reason")
        if status == "completed":
            return "refused" if refused else "stop"
        if status == "incomplete" and reason in CUT_BY:
            return CUT_BY[reason]
        raise ValueError(f"a reply that ended with {status!r}" if status else "a response without text")


def _parts(output: Any) -> Iterator[tuple[str, str]]:
    """Kind and text of every piece of the output, reasoning included."""
    for item in output if isinstance(output, list) else []:
        for held in ("summary", "content"):
            pieces = at(item, held)
            for piece in pieces if isinstance(pieces, list) else []:
                kind, text = at(piece, "type"), at(piece, "refusal" if at(piece, "type") == "refusal" else "text")
                if isinstance(kind, str) and isinstance(text, str):
                    yield kind, text
