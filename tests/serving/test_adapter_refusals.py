"""An adapter that vLLM refuses is reported with vLLM's message; an unreachable server is not reported as a refusal."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nanoflux_models.errors import ServerError, ServerRefusedError
from nanoflux_models.server_client import ServerClient

REASON = "expected target modules in {'q_proj'} but received ['vision_tower.layers.0.q_proj']."
"""vLLM's message if an adapter is for modules that the model does not have."""


class RefusingHandler(BaseHTTPRequestHandler):
    """The request handler of a server that lists no adapters, and refuses to load any with vLLM's error message."""

    def do_GET(self) -> None:
        self._answer(200, {"data": [{"id": "gemma-3-4b-it"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(400, {"error": {"message": REASON, "type": "BadRequestError", "code": 400}})

    def _answer(self, code: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def client() -> Iterator[ServerClient]:
    """A client of a server that refuses every adapter."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), RefusingHandler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield ServerClient(f"http://127.0.0.1:{server.server_port}/v1")
    server.shutdown()
    server.server_close()


def test_refused_adapter_is_reported_with_vllms_message(client: ServerClient, tmp_path: Path) -> None:
    with pytest.raises(ServerRefusedError) as error:
        client.load_adapter("a" * 64, tmp_path)
    assert REASON in error.value.message and "target_modules" in error.value.fix
    assert error.value.exit_code == 3


def test_unreachable_server_is_not_reported_as_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="does not answer"):
        ServerClient("http://127.0.0.1:9/v1").load_adapter("a" * 64, tmp_path)
