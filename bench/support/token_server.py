"""A server of known speed for OpenAI chat completions: each token takes a fixed time, and each slot serves one request
at a time.

    python bench/support/token_server.py --slots 32 --token-s 0.002      # prints its address, then serves until killed

Replies are those of the scripted profile, and depend only on the request. No client can be faster than the total
service time divided by the number of slots. In `/stats`, `span_s` is the time from the first request to the last reply,
which does not include the client's start.
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
    """A reply of the scripted model that can be parsed, expresses no doubt, and does not reject the question."""
    while True:
        text = write_reply(prompt, rng)
        is_confident = "CONFIDENCE" not in text or "0.97" in text
        if text.count(":") > 1 and is_confident and "DECISION: INVALID" not in text:
            return text


class TokenServer:
    """A minimal HTTP/1.1 server on loopback. `requests` counts the completed requests, and `busy_s` is their total
    service time.
    """

    def __init__(self, slots: int, token_s: float, script: Script) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._token_s = token_s
        self._model = ScriptedEndpoint("token-server", script=script)
        self.busy_s = 0.0
        self.requests = 0
        self._first_start = self._last_end = 0.0

    async def start(self) -> int:
        """Start listening on any free port. Returns the port."""
        server = await asyncio.start_server(self._handle_connection, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection one after another, until the client closes it."""
        try:
            while True:
                header = await reader.readuntil(b"\r\n\r\n")
                header_lines = header.decode().lower().split("\r\n")
                body = await reader.readexactly(_read_content_length(header_lines))
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
        """The JSON document that answers a request; {} for an unknown request."""
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
            if not self._first_start:
                self._first_start = start
            await asyncio.sleep(seconds)
            self._last_end = loop.time()
            self.busy_s += self._last_end - start  # the measured time, since timers are late on a busy machine
            self.requests += 1
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        usage["total_tokens"] = sum(usage.values())
        message = {"role": "assistant", "content": reply.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {
            "id": "reply", "object": "chat.completion", "created": 0, "model": parameters["model"],
            "choices": [choice], "usage": usage,
        }  # fmt: skip


def _read_content_length(header_lines: list[str]) -> int:
    """The length of a request's body in bytes, according to its header lines in lower case; 0 if none states it."""
    for line in header_lines:
        name, _, value = line.partition(":")
        if name == "content-length":
            return int(value)
    return 0


async def serve(slots: int, token_s: float, script: Script) -> None:
    """Start a server, print its address, and serve until the process is killed."""
    server = TokenServer(slots, token_s, script)
    print(f"http://127.0.0.1:{await server.start()}/v1", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=32, help="requests that are served at the same time")
    parser.add_argument("--token-s", type=float, default=0.02, help="seconds for each token of a reply")
    parser.add_argument("--flawless", action="store_true", help="send only readable replies that reject no question")
    options = parser.parse_args()
    script = make_flawless_reply if options.flawless else write_reply
    try:
        asyncio.run(serve(options.slots, options.token_s, script))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
