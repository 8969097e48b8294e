"""The client for servers that speak the OpenAI responses protocol (the o-series and its successors), through the openai
SDK.

The protocol has neither a seed nor stop strings. Repeats of a request therefore differ only in their ledger key, and
the client truncates replies at the stop strings.
"""

from typing import Any

from nanoflux_local.endpoints.faults import ResponseBodyError
from nanoflux_local.endpoints.remote.accepted import AcceptedParameters
from nanoflux_local.endpoints.remote.error_body import ErrorBody, parse_error
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.served import ParsedReply, RequestBody, build_sections_schema, build_timeout
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


class OpenAIResponsesEndpoint(OpenAIChatEndpoint):
    """A model behind a server's `/v1/responses`. Each request asks the server to store nothing."""

    interface = "openai_responses"
    default_url = "https://api.openai.com/v1"

    @staticmethod
    async def post(client: Any, body: RequestBody, timeout_s: float) -> Any:
        return await client.responses.with_raw_response.create(**body, timeout=build_timeout(timeout_s))

    def build_body(self, request: ChatRequest, accepted: AcceptedParameters) -> RequestBody:
        body: RequestBody = {
            "model": request.endpoint.model,
            "input": [
                {"role": message.role, "content": message.content} for message in accepted.messages(request.messages)
            ],
            **accepted.sampling_parameters(request.sampling),
            "max_output_tokens": request.sampling.max_tokens,
            "store": False,
        }
        if request.sections:
            text_format = {
                "type": "json_schema",
                "name": "sections",
                "strict": True,
                "schema": build_sections_schema(request.sections),
            }
            body["text"] = {"format": text_format}
        return body

    def parse_reply(self, body: Any) -> ParsedReply:
        check_error(body, "output")
        finish = _read_finish_reason(body)
        output = value_at(body, "output")
        if not isinstance(output, list):
            raise ValueError(NO_TEXT)
        contents = [read_content(value_at(item, "content")) for item in output if value_at(item, "type") == "message"]
        reasoning_texts = [_read_reasoning(item) for item in output if value_at(item, "type") == "reasoning"]
        text = "".join(content.text or "" for content in contents)
        refusal = "".join(content.refusal for content in contents)
        if not text and not refusal:
            tool_calls = [item for item in output if str(value_at(item, "type")).endswith("_call")]
            check_tool_call(None, tool_calls)
        return ParsedReply(
            text + refusal,
            "refused" if refusal and finish == "stop" else finish,
            prompt_tokens=read_token_count(body, "usage", "input_tokens"),
            completion_tokens=read_token_count(body, "usage", "output_tokens"),
            cached_tokens=read_token_count(body, "usage", "input_tokens_details", "cached_tokens"),
            reasoning="\n".join(reasoning_text for reasoning_text in reasoning_texts if reasoning_text),
            reasoning_tokens=read_token_count(body, "usage", "output_tokens_details", "reasoning_tokens"),
        )


def _read_finish_reason(body: Any) -> Finish:
    """Why the reply ended. An incomplete reply without a reason is treated as truncated ("length").

    Raises:
        ResponseBodyError: the server failed during the reply.
        ValueError: the reply is unfinished.
    """
    status = value_at(body, "status")
    if status == "incomplete":
        finish = read_finish(value_at(body, "incomplete_details", "reason"))
        return "length" if finish == "stop" else finish
    if status in ("failed", "cancelled"):
        error = parse_error({"error": value_at(body, "error")})
        if not error.message:
            error = ErrorBody(f"the server ended the reply with status {status!r}", ("server_error",))
        raise ResponseBodyError(error)
    if status not in ("completed", None):
        raise ValueError(f"an unfinished reply with status {str(status)[:100]!r}")
    return "stop"


def _read_reasoning(item: Any) -> str:
    """The summary and the content of a reasoning item; "" if the server sends neither."""
    contents = [read_content(value_at(item, key)) for key in ("summary", "content")]
    texts = [content.reasoning or content.text for content in contents]
    return "\n".join(text for text in texts if text)
