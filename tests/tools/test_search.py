"""Search engines, tested against a local server: the requests that they send, and the outcomes of a search."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from nanoflux_local.config import SearchConfig
from nanoflux_local.errors import ConfigError, EndpointError, NothingMatchedError
from nanoflux_local.records import SearchReply, SearchRequest
from nanoflux_local.tools.corpus import Corpus
from nanoflux_local.tools.search import MAX_SNIPPET_CHARACTERS, CorpusSearch, DuckDuckGo, build_search_tool

KEY = "canary-search-key-77"
"""The API key, which no reply, error or identity may contain."""


class FakeEngine:
    """A server that answers every request with `status` and `body` after `delay_s`, and records the requests."""

    def __init__(self) -> None:
        self.status, self.body, self.delay_s = 200, b"{}", 0.0
        self.headers: dict[str, str] = {}
        self.received: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []  # paths, queries and headers
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                query = parse_qs(url.query or body)
                headers = {name.lower(): value for name, value in self.headers.items()}
                engine.received.append((url.path, query, headers))
                time.sleep(engine.delay_s)
                self.send_response(engine.status)
                for name, value in {"Content-Length": str(len(engine.body)), **engine.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(engine.body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A running fake engine."""
    engine = FakeEngine()
    yield engine
    engine.server.shutdown()
    engine.server.server_close()


@pytest.fixture(params=["searxng", "google"])
def engine_tool(request: pytest.FixtureRequest, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The search tool for SearXNG or for Google, which sends its requests to the fake engine."""
    monkeypatch.setenv("SEARCH_KEY", KEY)
    cx = "cx-1" if request.param == "google" else ""
    config = SearchConfig(engine=request.param, url=engine.url, cx=cx, key_env="SEARCH_KEY")
    return build_search_tool(config, Path("none"))


async def search(tool: Any, query: str = "heart rate", timeout_s: float = 20.0, top: int = 5) -> SearchReply:
    """The tool's reply to a query."""
    return await tool.search(SearchRequest(tool.identity, query, top, timeout_s))


def encode_results(tool: Any, *rows: Any) -> bytes:
    """A response of the engine with these results: tuples of title, address and text, or invalid values."""
    if tool.identity.model == "google":
        list_key, result_keys = "items", ("title", "link", "snippet")
    else:
        list_key, result_keys = "results", ("title", "url", "content")
    results = [dict(zip(result_keys, row, strict=False)) if isinstance(row, tuple) else row for row in rows]
    return json.dumps({list_key: results}).encode()


async def test_search_results_are_read_and_limited(engine_tool: Any, engine: FakeEngine) -> None:
    engine.body = encode_results(
        engine_tool,
        ("One", "http://a", "said\n twice"),
        7,
        ("No place",),
        ("Two", "http://b", "x" * 5000),
        ("3", "c", ""),
    )
    reply = await search(engine_tool, top=2)
    assert reply.outcome == "found"
    assert reply.results == (("One", "http://a", "said twice"), ("Two", "http://b", "x" * MAX_SNIPPET_CHARACTERS))
    path, query, headers = engine.received[0]
    assert query["q"] == ["heart rate"] and KEY not in str(query) + path
    assert KEY in headers.get("x-goog-api-key", "") + headers.get("authorization", "")
    assert path == ("/customsearch/v1" if engine_tool.identity.model == "google" else "/search")
    assert KEY not in str(engine_tool.identity) + str(reply) + repr(engine_tool.__dict__)


RESPONSES_AND_OUTCOMES = {
    "no results": ((200, b'{"results": [], "items": []}', 0), "nothing", ""),
    "results in another format": ((200, b'{"results": "x", "items": {}}', 0), "nothing", ""),
    "an error": ((500, b"{}", 0), "failed", "status 500"),
    "too many requests": ((429, b"{}", 0), "failed", "status 429"),
    "a redirect": ((302, b"", 0), "failed", "status 302"),
    "not JSON": ((200, b"<html>", 0), "failed", "JSONDecodeError"),
    "a list": ((200, b"[]", 0), "failed", "not a JSON object"),
    "the API key": ((200, KEY.encode(), 0), "failed", ""),
    "a slow response": ((200, b"{}", 1.5), "timeout", "no answer within 0.3 s"),
}
"""Responses of the engine, each as (status, body, delay in seconds), with the outcome and a part of its detail."""


@pytest.mark.parametrize("name", RESPONSES_AND_OUTCOMES)
async def test_search_reports_the_outcome_of_each_response(engine_tool: Any, engine: FakeEngine, name: str) -> None:
    (engine.status, engine.body, engine.delay_s), outcome, detail = RESPONSES_AND_OUTCOMES[name]
    reply = await search(engine_tool, timeout_s=0.3 if engine.delay_s else 20.0)
    assert reply.outcome == outcome and detail in reply.detail and not reply.results
    assert KEY not in str(reply)
    assert SearchReply.from_json(json.loads(json.dumps(reply.to_json()))) == reply


@pytest.mark.parametrize("status", [401, 403])
async def test_search_with_a_refused_key_raises_an_error(engine_tool: Any, engine: FakeEngine, status: int) -> None:
    engine.status, engine.body = status, KEY.encode()
    with pytest.raises(EndpointError, match="refuses the request") as error:
        await search(engine_tool)
    assert KEY not in str(error.value)


async def test_search_without_a_running_server_fails(engine_tool: Any, engine: FakeEngine) -> None:
    engine.server.shutdown()
    engine.server.server_close()
    assert (await search(engine_tool)).outcome in ("failed", "timeout")


async def test_search_through_a_proxy_that_is_not_allowed_is_refused(
    engine_tool: Any, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://198.51.100.7:3128")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(engine_tool, "_url", "http://engine.example")  # loopback addresses bypass the proxy
    reply = await search(engine_tool)
    assert reply.outcome == "refused" and "198.51.100.7" in reply.detail
    assert not engine.received


# A results page of DuckDuckGo with two results.
PAGE = """<html><body><div class="body"><h2><a href="http://a">One</a></h2><a href="http://a">the first</a></div>
<div class="body"><h2><a>Two</a></h2><a href="http://b">the second about heart rate</a></div></body></html>"""


@pytest.fixture
def duckduckgo(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> DuckDuckGo:
    """The search tool with the real library `ddgs`, which sends its requests to the fake engine."""
    engine_module = pytest.importorskip("ddgs.engines.duckduckgo")
    monkeypatch.setattr(engine_module.Duckduckgo, "search_url", f"{engine.url}/html/")
    engine.headers = {"Content-Type": "text/html"}
    engine.body = PAGE.encode()
    return DuckDuckGo()


async def test_duckduckgo_search_returns_results(duckduckgo: DuckDuckGo, engine: FakeEngine) -> None:
    reply = await search(duckduckgo)
    assert reply.outcome == "found", reply
    assert {place for _, place, _ in reply.results} == {"http://a", "http://b"}
    assert engine.received[0][1]["q"] == ["heart rate"]


async def test_duckduckgo_search_reports_no_results_and_a_timeout(duckduckgo: DuckDuckGo, engine: FakeEngine) -> None:
    engine.body = b"<html><body></body></html>"
    assert (await search(duckduckgo)).outcome == "nothing"
    engine.delay_s = 1.5
    assert (await search(duckduckgo, timeout_s=0.3)).outcome == "timeout"


async def test_corpus_can_serve_as_the_search_engine(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The sinoatrial node sets the heart rate.")
    with Corpus(tmp_path / "c.db", write=True) as corpus:
        corpus.add([tmp_path / "a.txt"])
    tool = CorpusSearch(tmp_path / "c.db")
    assert (await search(tool)).results == (("a", "a.txt, part 1", "The sinoatrial node sets the heart rate."),)
    assert (await search(tool, "quasar")).outcome == "nothing"
    assert (await search(tool, "?!")).outcome == "nothing"
    await tool.close()
    (tmp_path / "a.txt").write_text("Another text.")
    with Corpus(tmp_path / "c.db", write=True) as corpus:
        corpus.add([tmp_path / "a.txt"])
    assert CorpusSearch(tmp_path / "c.db").identity != tool.identity
    with pytest.raises(NothingMatchedError, match="nanoflux corpus add"):
        build_search_tool(SearchConfig(), tmp_path / "none.db")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"engine": "searxng"}, "needs the url"), ({"engine": "google", "cx": "c"}, "key_env or key_file"),
     ({"engine": "google", "key_env": "K"}, "needs cx"),
     ({"engine": "searxng", "url": "http://me:secret@host"}, "must not contain a user"),
     ({"engine": "bing"}, "Input should be")],
)  # fmt: skip
def test_search_config_refuses_incomplete_or_invalid_settings(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        SearchConfig(**settings)
    assert "secret" not in str(error.value)


def test_search_engine_without_its_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEARCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="SEARCH_KEY is not set"):
        build_search_tool(SearchConfig(engine="google", cx="c", key_env="SEARCH_KEY"), Path("none"))
