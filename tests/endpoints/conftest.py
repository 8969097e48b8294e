"""Shared by the tests of endpoints: a server on a loopback port that answers what it is told to, and no long pauses."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nanoflux_local.endpoints import retries


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts that a test can wait for; how many attempts there are stays as it is."""
    monkeypatch.setattr(retries, "BASE_S", 0.001)
    monkeypatch.setattr(retries, "LONGEST_S", 0.01)


class Server:
    """A server on a loopback port: answers what `answers` holds, the last one for ever, and notes what came."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = [(200, b"{}")]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.content_type = "application/json"
        self.more_headers: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                server.headers.append({key.lower(): value for key, value in self.headers.items()})
                server.paths.append(self.path)
                code, body = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                self.send_response(code)
                self.send_header("Content-Type", server.content_type)
                self.send_header("Content-Length", str(len(body)))
                for name, value in server.more_headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, *answers: tuple[int, Any]) -> None:
        self.answers = [
            (code, body if isinstance(body, bytes) else json.dumps(body).encode()) for code, body in answers
        ]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    running = Server()
    yield running
    running.close()
