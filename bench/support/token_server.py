"""A server of known speed: OpenAI chat completions at a fixed time per token, at most one request per slot, and replies
that depend only on the request (those of the scripted profile). No client can be faster than the total service time
divided by the number of slots. `span_s` is the time from the first request to the last reply, without the client's
start.

    python bench/support/token_server.py --slots 32 --token-s 0.002      # prints its address, then serves until killed
"""

import argparse
import asyncio
import json
import random
import sys
from typing import Any

from nanoflux_local.endpoints.scripted import Script, ScriptedEndpoint, write_reply
from nanoflux_local.records import ChatRequest, Identity, Message, Sampling


def make_flawless_reply(prompt: str, rng: random.Random) -> str:
    """A reply of the scripted model that can be parsed, is not in doubt, and accepts every question."""
    while True:
        text = write_reply(prompt, rng)
        is_confident = "CONFIDENCE" not in text or "0.97" in text
        if text.count(":") > 1 and is_confident and "DECISION: INVALID" not in text:
            return text


class TokenServer:
    """A minimal HTTP/1.1 server on loopback. `busy_s` is the total service time of all requests so far."""

    def __init__(self, slots: int, token_s: float, script: Script) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._token_s = token_s
        self._model = ScriptedEndpoint("token-server", script=script)
        self.busy_s = 0.0
        self.requests = 0
        self._first_start = self._last_end = 0.0

    async def start(self) -> int:
        server = await asyncio.start_server(self._handle_connection, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.readuntil(b"\r\n\r\n"):
                header_lines = header.decode().lower().split("\r\n")
                length = next((int(line[15:]) for line in header_lines if line.startswith("content-length:")), 0)
                body = await reader.readexactly(length)
                document = await self._answer(header_lines[0], body)
                reply = json.dumps(document).encode()
                status = b"200 OK" if document else b"404 Not Found"
                writer.write(
                    b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (status, len(reply), reply)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, request_line: str, body: bytes) -> dict[str, Any]:
        if request_line.startswith("get /stats"):
            return {"busy_s": self.busy_s, "requests": self.requests, "span_s": self._last_end - self._first_start}
        if not request_line.startswith("post "):
            return {}
        parameters = json.loads(body)
        messages = tuple(Message(entry["role"], entry["content"]) for entry in parameters["messages"])
        sampling = Sampling(max_tokens=parameters.get("max_tokens") or 512)
        request = ChatRequest(Identity("token", "token-server"), messages, sampling, parameters.get("seed") or 0)
        reply = await self._model.chat(request)
        async with self._slots:
            seconds = self._token_s * reply.completion_tokens
            loop = asyncio.get_running_loop()
            start = loop.time()
            self._first_start = self._first_start or start
            await asyncio.sleep(seconds)
            self._last_end = loop.time()
            self.busy_s += self._last_end - start  # the real time in the slot: timers are late on a busy machine
            self.requests += 1
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        usage["total_tokens"] = sum(usage.values())
        message = {"role": "assistant", "content": reply.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {
            "id": "reply", "object": "chat.completion", "created": 0, "model": parameters["model"],
            "choices": [choice], "usage": usage,
        }  # fmt: skip


async def serve(slots: int, token_s: float, script: Script) -> None:
    server = TokenServer(slots, token_s, script)
    print(f"http://127.0.0.1:{await server.start()}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--token-s", type=float, default=0.02)
    parser.add_argument("--flawless", action="store_true")
    options = parser.parse_args()
    try:
        asyncio.run(serve(options.slots, options.token_s, make_flawless_reply if options.flawless else write_reply))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
