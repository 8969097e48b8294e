"""A fake server that speaks the protocols of hosted models and answers with scripted replies.

Tests, benchmarks and the TUI's guided tour use it. The server binds to loopback, runs no model and checks no key. With
`Chaos`, it fails as real servers do.

    python -m nanoflux_local.endpoints.fake_server --faults 0.4 --stall-s 60    # prints its address
"""

import argparse
import asyncio
import hashlib
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nanoflux_local.endpoints.chaos import Chaos
from nanoflux_local.endpoints.remote.shapes import read_content
from nanoflux_local.endpoints.scripted import HashingEmbedder, write_reply
from nanoflux_local.records import derive_seed

Json = dict[str, Any]
EMBEDDINGS = "/v1/embeddings"
"""The path of requests for embeddings."""
UNUSABLE_BODIES = (b"", b"{not json", b"<html>502 Bad Gateway</html>", b"null", b'{"choices": []}', b"\xff\xfe\x00")
"""Bodies of responses in which a client finds no reply."""


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request, independent of the protocol."""

    model: str
    prompt: str
    """The text of the last message."""
    seed: str
    """The seed as text; empty if the protocol has no seed."""
    keys: tuple[str, ...]
    """The keys of the requested JSON object; empty if text is requested."""


@dataclass(frozen=True, slots=True)
class FakeReply:
    """A reply, independent of the protocol."""

    text: str
    reasoning: str
    prompt_tokens: int
    completion_tokens: int


class FakeServer:
    """Answers requests with the replies of `script`, or fails as `chaos` determines.

    `requests` counts the requests, and `disconnects` the clients that disconnected while they waited for a response.
    `chaos` and `script` may be replaced while the server runs; a subclass may override `serve_request`.
    """

    def __init__(self, chaos: Chaos | None = None, script: Callable[[str, random.Random], str] = write_reply) -> None:
        self.chaos = chaos or Chaos()
        self.requests = 0
        self.disconnects = 0
        self.queued_requests = 0.0
        """The number of waiting requests that the server reports, as vLLM does, at /metrics."""
        self.cache_usage = 0.0
        """The share of the KV cache in use that the server reports at /metrics."""
        self.script = script
        self._server: asyncio.Server | None = None
        self._open_writers: set[asyncio.StreamWriter] = set()  # one for each connection

    async def start(self, port: int = 0) -> str:
        """Listen on a loopback port; return the url for clients."""
        self._server = await asyncio.start_server(self._handle_connection, "127.0.0.1", port)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def stop(self) -> None:
        """Close all connections and stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open_writers):
            writer.transport.abort()
        while self._open_writers:
            await asyncio.sleep(0.01)

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of one connection, one after another, until the client disconnects."""
        self._open_writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path, body_length = _parse_head(head)
                body = await reader.readexactly(body_length)
                await self.serve_request(path, body, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open_writers.discard(writer)
            writer.close()

    async def serve_request(
        self, path: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request, or fail with the fault that is drawn for it. Raises ConnectionAbortedError if the
        connection must be closed.
        """
        if path == "/stats":
            counts = {"requests": self.requests, "disconnects": self.disconnects, **self.chaos.fault_counts}
            return send_response(writer, 200, counts)
        if path == "/metrics":
            metrics = {"vllm:num_requests_waiting": self.queued_requests, "vllm:kv_cache_usage_perc": self.cache_usage}
            text = "".join(f'{name}{{engine="0"}} {value}\n' for name, value in metrics.items())
            return send_response(writer, 200, text.encode())
        if path not in REPLY_WRITERS and path != EMBEDDINGS:
            return send_response(writer, 404, {"error": {"message": f"no such path: {path}"}})
        self.requests += 1
        fault, rng = self.chaos.draw_fault(hashlib.sha256(body).hexdigest())
        answer = self._build_answer(path, json.loads(body), rng)
        if fault == "empty" and path == EMBEDDINGS:
            fault = "garbled"  # a vector has no text that could be empty
        if fault is not None:
            self.chaos.fault_counts[fault] += 1
        if fault == "rate_limited":
            refusal = {"error": {"message": "slow down", "type": "rate_limit_error"}}
            return send_response(writer, 429, refusal, f"Retry-After: {self.chaos.retry_after_s}\r\n")
        if fault == "server_error":
            return send_response(writer, rng.choice([500, 502, 503]), {"error": {"message": "out of memory"}})
        if fault == "garbled":
            return send_response(writer, 200, rng.choice([*UNUSABLE_BODIES, answer[: len(answer) // 2]]))
        if fault == "empty":
            empty_request = ParsedRequest(model="", prompt="", seed="", keys=())
            empty_reply = FakeReply(text="", reasoning="", prompt_tokens=1, completion_tokens=0)
            return send_response(writer, 200, REPLY_WRITERS[path](empty_request, empty_reply))
        if fault == "reset":
            send_response(writer, 200, answer, sent_bytes=len(answer) // 2)
            await writer.drain()
            raise ConnectionAbortedError
        if fault == "stall" and not await self._stall(reader):
            raise ConnectionAbortedError
        return send_response(writer, 200, answer)

    async def _stall(self, reader: asyncio.StreamReader) -> bool:
        """Wait for `stall_s` seconds; return whether the client is still connected. A waiting client sends nothing, so
        the read returns only when the client has closed the connection.
        """
        try:
            async with asyncio.timeout(self.chaos.stall_s):
                await reader.read(1)
        except TimeoutError:
            return True
        self.disconnects += 1
        return False

    def _build_answer(self, path: str, body: Json, rng: random.Random) -> bytes:
        """Build the response to a request that does not fail, in the protocol of its path."""
        if path == EMBEDDINGS:
            vector = HashingEmbedder(body["model"]).vector(body["input"])
            data = [{"object": "embedding", "index": 0, "embedding": [float(number) for number in vector]}]
            word_count = len(body["input"].split())
            usage = {"prompt_tokens": word_count, "total_tokens": word_count}
            return json.dumps({"object": "list", "data": data, "model": body["model"], "usage": usage}).encode()
        request = REQUEST_READERS[path](body)
        script_rng = random.Random(derive_seed(request.model, request.prompt, request.seed))
        text = self.script(request.prompt, script_rng)
        if request.keys:
            text = _to_json_object(text, request.keys)
        reasoning = "Let me see.\nANSWER: not this one." if rng.random() < self.chaos.reasoning_share else ""
        prompt_words, text_words = len(request.prompt.split()), len(text.split())
        reply = FakeReply(text, reasoning, prompt_tokens=prompt_words, completion_tokens=text_words)
        return json.dumps(REPLY_WRITERS[path](request, reply)).encode()


def _parse_head(head: bytes) -> tuple[str, int]:
    """The path of a request and the length of its body in bytes."""
    request_line, *header_lines = head.decode("latin-1").lower().split("\r\n")
    path = request_line.split(" ")[1]
    for line in header_lines:
        name, _, value = line.partition(":")
        if name == "content-length":
            return path, int(value)
    return path, 0


def send_response(
    writer: asyncio.StreamWriter, status: int, body: Json | bytes, headers: str = "", sent_bytes: int | None = None
) -> None:
    """Write a response with additional `headers`. With `sent_bytes`, write only that many bytes of the body,
    although the header announces all of them.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    # Clients ignore the reason phrase, so every status is sent with "-".
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    writer.write(head.encode() + content[:sent_bytes])


def _to_json_object(text: str, keys: tuple[str, ...]) -> str:
    """Turn a reply with headings into the requested JSON object; return a reply without those headings unchanged."""
    sections: dict[str, str] = {}
    for line in text.splitlines():
        heading, colon, section_text = line.partition(":")
        key = heading.replace(" ", "_")
        if colon and key in keys:
            sections[key] = section_text.strip()
    return json.dumps(sections) if sections else text


def _read_chat_request(body: Json) -> ParsedRequest:
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    return ParsedRequest(body["model"], _last_text(body["messages"]), str(body.get("seed")), _required_keys(schema))


def _read_responses_request(body: Json) -> ParsedRequest:
    schema = body.get("text", {}).get("format", {}).get("schema", {})
    return ParsedRequest(body["model"], _last_text(body["input"]), "", _required_keys(schema))


def _read_messages_request(body: Json) -> ParsedRequest:
    schema = body.get("output_config", {}).get("format", {}).get("schema", {})
    return ParsedRequest(body["model"], _last_text(body["messages"]), "", _required_keys(schema))


def _last_text(messages: list[Json]) -> str:
    """The text of the last message, whose content may be a list of parts."""
    return read_content(messages[-1]["content"]).text or ""


def _required_keys(schema: Json) -> tuple[str, ...]:
    """The keys of the JSON object that a request's schema describes."""
    return tuple(schema.get("required", ()))


def _format_chat_reply(request: ParsedRequest, reply: FakeReply) -> Json:
    message = {"role": "assistant", "content": reply.text, "reasoning": reply.reasoning or None}
    total = reply.prompt_tokens + reply.completion_tokens
    usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens, "total_tokens": total}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 0, "model": request.model, "choices": [choice],
            "usage": usage}  # fmt: skip


def _format_responses_reply(request: ParsedRequest, reply: FakeReply) -> Json:
    reasoning_item = {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": reply.reasoning}]}
    content = [{"type": "output_text", "text": reply.text, "annotations": []}]
    message = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": content}
    total = reply.prompt_tokens + reply.completion_tokens
    usage = {"input_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens, "total_tokens": total}
    output = [reasoning_item, message] if reply.reasoning else [message]
    return {"id": "r1", "object": "response", "created_at": 0, "model": request.model, "status": "completed",
            "output": output, "usage": usage}  # fmt: skip


def _format_messages_reply(request: ParsedRequest, reply: FakeReply) -> Json:
    reasoning_block = {"type": "thinking", "thinking": reply.reasoning, "signature": "s"}
    text_block = {"type": "text", "text": reply.text}
    content = [reasoning_block, text_block] if reply.reasoning else [text_block]
    usage = {"input_tokens": reply.prompt_tokens, "output_tokens": reply.completion_tokens}
    return {"id": "m1", "type": "message", "role": "assistant", "model": request.model, "content": content,
            "stop_reason": "end_turn", "usage": usage}  # fmt: skip


REQUEST_READERS: dict[str, Callable[[Json], ParsedRequest]] = {
    "/v1/chat/completions": _read_chat_request,
    "/v1/responses": _read_responses_request,
    "/v1/messages": _read_messages_request,
}
REPLY_WRITERS: dict[str, Callable[[ParsedRequest, FakeReply], Json]] = {
    "/v1/chat/completions": _format_chat_reply,
    "/v1/responses": _format_responses_reply,
    "/v1/messages": _format_messages_reply,
}


async def serve(port: int, chaos: Chaos) -> None:
    """Print the address and serve until the process is killed."""
    print(await FakeServer(chaos).start(port), flush=True)  # noqa: T201 - the command's only output
    await asyncio.Event().wait()


def main() -> None:
    """Run a fake server with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 for any free port")
    parser.add_argument(
        "--faults", type=float, default=0.0, help="share of responses that fail; all kinds of faults are equally likely"
    )
    parser.add_argument("--thinking", type=float, default=0.0, help="share of replies with a reasoning block")
    parser.add_argument("--seed", type=int, default=0, help="seed from which faults are drawn")
    parser.add_argument("--stall-s", type=float, default=60.0, help="seconds by which a stalled response is delayed")
    parser.add_argument(
        "--retry-after-s", type=float, default=0.05, help="seconds that a rate-limited client is asked to wait"
    )
    options = parser.parse_args()
    chaos_settings = {
        "reasoning_share": options.thinking,
        "stall_s": options.stall_s,
        "retry_after_s": options.retry_after_s,
    }
    try:
        asyncio.run(serve(options.port, Chaos.with_equal_rates(options.faults, options.seed, **chaos_settings)))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
