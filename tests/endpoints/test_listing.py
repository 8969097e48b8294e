"""A warning is shown if a server's model list lacks the endpoint's model, but not if the server has no model list."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nanoflux_local.endpoints.remote.listing import is_private, is_same_model, list_model_warnings, read_listing
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint

LISTING = {"object": "list", "data": [{"id": "qwen3-4b", "object": "model"}, {"id": "judge", "root": "org/judge"}]}
"""A server's model list: the first model has only an id, the second also has the name of its base model as `root`."""


class ListingServer:
    """A server that only lists models. `requests` has the path and the Authorization header of each request."""

    def __init__(self) -> None:
        self.answer: tuple[int, Any] = (200, LISTING)
        self.requests: list[tuple[str, str]] = []
        listing_server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listing_server.requests.append((self.path, self.headers.get("Authorization", "")))
                status, value = listing_server.answer
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def listing_server() -> Iterator[ListingServer]:
    listing_server = ListingServer()
    yield listing_server
    listing_server.close()


def list_warnings(model: str, url: str) -> list[str]:
    """The warnings about the endpoint `arbiter`, which uses `model` at `url`."""
    endpoint = OpenAIChatEndpoint(model, url, "LISTING_TEST_KEY")
    return asyncio.run(list_model_warnings({"arbiter": endpoint}))


@pytest.fixture(autouse=True)
def set_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTING_TEST_KEY", "sk-listing-0123456789")


def test_model_that_the_server_does_not_list_is_reported(listing_server: ListingServer) -> None:
    assert list_warnings("gpt-oss-20b", listing_server.url) == [
        f"endpoints.arbiter: {listing_server.url} does not list the model gpt-oss-20b;"
        " it lists qwen3-4b, judge, org/judge; correct the endpoint's model or url"
    ]
    assert listing_server.requests == [("/v1/models", "Bearer sk-listing-0123456789")]


@pytest.mark.parametrize("model", ["qwen3-4b", "judge", "org/judge"])
def test_listed_model_is_not_reported(listing_server: ListingServer, model: str) -> None:
    assert list_warnings(model, listing_server.url) == []


@pytest.mark.parametrize(
    "answer",
    [(404, {"error": "no such path"}), (200, b"<html>"), (200, {"data": []}), (200, {"data": "x"}), (200, [1]),
     (500, b""), (200, b"[" * 100_000), (200, {"data": [1, None, {"id": 3}]})],
)  # fmt: skip
def test_server_without_a_model_list_is_not_reported(listing_server: ListingServer, answer: tuple[int, Any]) -> None:
    listing_server.answer = answer
    assert list_warnings("m", listing_server.url) == []


def test_unreachable_server_causes_no_listing_warning(listing_server: ListingServer) -> None:
    listing_server.close()
    assert list_warnings("m", listing_server.url) == []


def test_model_names_match_listed_tags_and_wildcards() -> None:
    assert is_same_model("llama3", "llama3:latest") and is_same_model("openai/gpt-x", "openai/*")
    assert not is_same_model("llama3", "llama3.1:8b")
    assert list(read_listing({"models": [{"name": "llama3:latest"}]})) == ["llama3:latest"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [("http://127.0.0.1:1/v1", True), ("http://10.0.0.5:8000/v1", True), ("http://gpu7:8000/v1", True),
     ("http://box.lan/v1", True), ("https://api.mistral.ai/v1", False), ("http://8.8.8.8/v1", False)],
)  # fmt: skip
def test_private_servers_are_recognised_by_address_or_name(url: str, expected: bool) -> None:
    assert is_private(url) is expected
