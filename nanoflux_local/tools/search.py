"""Search engines for the judge: the local corpus, DuckDuckGo, a SearXNG server and Google's Custom Search.

Every search ends with a reply: results, no results, a timeout, a connection that the network guard refuses, or a
failure. Only a fault that would recur in every search, such as a wrong key, ends the run. Choosing an engine in the
configuration permits connections to its host.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from nanoflux_local.config import SearchConfig
from nanoflux_local.endpoints.remote.keys import ApiKey, read_key
from nanoflux_local.endpoints.remote.network import check_network, http_options
from nanoflux_local.errors import ConfigError, EndpointError, UsageError
from nanoflux_local.records import Identity, SearchOutcome, SearchReply, SearchRequest
from nanoflux_local.redaction import redact
from nanoflux_local.tools.corpus import Corpus
from nanoflux_models import guard

SearchResult = tuple[str, str, str]
"""A title, a place (a url, or a document and a position in the document) and a snippet."""
GOOGLE = "https://customsearch.googleapis.com"
DUCKDUCKGO = "html.duckduckgo.com"
KEY_REFUSED_STATUSES = (401, 403)
"""The HTTP statuses of a reply that refuses the key."""
MAX_SNIPPET_CHARACTERS = 600
"""Maximum length of a snippet in characters, since an engine may return text of any length."""


class SearchTool(Protocol):
    """A search engine. `identity` names the engine, and everything on this machine that affects its results."""

    identity: Identity

    async def search(self, request: SearchRequest) -> SearchReply: ...

    async def close(self) -> None: ...


def build_search_tool(config: SearchConfig, corpus: Path) -> SearchTool:
    """Build the engine of a configuration.

    Raises:
        ConfigError: a key or a library is missing.
        NothingMatchedError: the corpus is empty.
    """
    if config.engine == "corpus":
        return CorpusSearch(corpus)
    if config.engine == "duckduckgo":
        return DuckDuckGo()
    key = read_key(config.key_env, config.key_file)
    return SearXNG(config.url, key) if config.engine == "searxng" else Google(config.url or GOOGLE, config.cx, key)


async def run_search(search: Callable[[], Awaitable[list[SearchResult]]], timeout_s: float, key: ApiKey) -> SearchReply:
    """Run a search with a time limit, and return its results or its failure as a reply. `key` is masked in the reply.

    Raises:
        EndpointError: the engine refuses the key, so that every other query would fail as well.
    """
    start = time.monotonic()

    def build_reply(outcome: SearchOutcome, detail: str = "", results: Sequence[SearchResult] = ()) -> SearchReply:
        seconds = round(time.monotonic() - start, 3)
        shown_detail = key.mask(redact(detail))[:300]
        shortened_results = tuple((title, place, snippet[:MAX_SNIPPET_CHARACTERS]) for title, place, snippet in results)
        return SearchReply(outcome, shown_detail, shortened_results, seconds)

    try:
        results = await asyncio.wait_for(search(), timeout_s)
    except EndpointError:
        raise
    except TimeoutError:
        return build_reply("timeout", f"no answer within {timeout_s:g} s")
    except Exception as error:  # noqa: BLE001 - the libraries raise many kinds of errors
        refusal = guard.find_refusal(error)
        if refusal is not None:
            return build_reply("refused", refusal.message)
        timed_out = "timeout" in type(error).__name__.lower()  # the libraries name their timeout errors this way
        return build_reply("timeout" if timed_out else "failed", f"{type(error).__name__}: {error}")
    return build_reply("found", results=results) if results else build_reply("nothing")


class CorpusSearch:
    """The local corpus. Its identity includes a hash of its documents, so that a run records which documents it
    searched.
    """

    def __init__(self, path: Path) -> None:
        self._corpus = Corpus(path)
        self.identity = Identity("search", "corpus", self._corpus.digest())

    async def search(self, request: SearchRequest) -> SearchReply:
        async def find_results() -> list[SearchResult]:
            try:
                hits = await asyncio.to_thread(self._corpus.search, request.query, request.top, request.timeout_s)
            except UsageError:
                return []
            return [(hit.title, hit.place, hit.snippet) for hit in hits]

        # The index enforces the time limit itself, so `run_search` waits one second longer.
        return await run_search(find_results, request.timeout_s + 1, ApiKey())

    async def close(self) -> None:
        self._corpus.close()


class DuckDuckGo:
    """Searches with the `ddgs` package, which reads the engine's web page. The package's native code bypasses the
    network guard.
    """

    def __init__(self) -> None:
        try:
            import ddgs
        except ImportError as error:
            fix = 'install the package: pip install "nanoflux-local[search]"'
            raise ConfigError(
                'search.engine = "duckduckgo" needs the package `ddgs`, which is not installed', fix
            ) from error
        self._ddgs = ddgs
        guard.allow(DUCKDUCKGO)
        self.identity = Identity("search", "duckduckgo")

    async def search(self, request: SearchRequest) -> SearchReply:
        def query_engine() -> list[SearchResult]:
            try:
                hits = self._ddgs.DDGS(timeout=max(1, round(request.timeout_s))).text(
                    request.query, max_results=request.top, backend="duckduckgo"
                )
            except self._ddgs.exceptions.DDGSException as error:
                if "No results" in str(error):
                    return []
                raise
            return [(str(hit["title"]), str(hit["href"]), str(hit["body"])) for hit in hits]

        return await run_search(lambda: asyncio.to_thread(query_engine), request.timeout_s, ApiKey())

    async def close(self) -> None:
        return


class _HttpEngine:
    """Base of the engines that answer in JSON over HTTP."""

    def __init__(self, name: str, url: str, key: ApiKey, variant: str) -> None:
        self._url, self._key = url.rstrip("/"), key
        check_network(self._url)
        guard.allow(url)
        self.identity = Identity("search", name, variant=variant)

    async def _get(self, path: str, query: dict[str, Any], headers: dict[str, str], timeout_s: float) -> dict[str, Any]:
        """Send a GET request, and return the JSON object in the response.

        Raises:
            EndpointError: the engine refuses the key.
            ValueError: the response has a status other than 200, or is not a JSON object.
        """
        import httpx2

        async with httpx2.AsyncClient(timeout=timeout_s, **http_options(self._url)) as client:
            response = await client.get(f"{self._url}{path}", params=query, headers=headers)
        if response.status_code in KEY_REFUSED_STATUSES:
            raise EndpointError(
                f"the search engine {self.identity.model} refuses the request ({response.status_code})",
                "check search.key_env or search.key_file, and the permissions of the key",
            )
        if response.status_code != 200:
            raise ValueError(f"the engine answered with status {response.status_code}")
        body = response.json()
        if not isinstance(body, dict):
            raise ValueError("the engine's answer is not a JSON object")
        return body

    async def close(self) -> None:
        return


class SearXNG(_HttpEngine):
    """A SearXNG instance that allows the JSON format (`search.formats` in its settings)."""

    def __init__(self, url: str, key: ApiKey) -> None:
        super().__init__("searxng", url, key, urlsplit(url).netloc)

    async def search(self, request: SearchRequest) -> SearchReply:
        async def find_results() -> list[SearchResult]:
            headers = {"Authorization": f"Bearer {self._key.text}"} if self._key else {}
            query = {"q": request.query, "format": "json"}
            body = await self._get("/search", query, headers, request.timeout_s)
            return _read_results(body.get("results"), ("title", "url", "content"), request.top)

        return await run_search(find_results, request.timeout_s, self._key)


class Google(_HttpEngine):
    """Google's Custom Search JSON API. The key is sent in a header, so that it appears in no URL."""

    def __init__(self, url: str, cx: str, key: ApiKey) -> None:
        self._cx = cx
        super().__init__("google", url, key, cx)

    async def search(self, request: SearchRequest) -> SearchReply:
        async def find_results() -> list[SearchResult]:
            query = {"q": request.query, "cx": self._cx, "num": min(10, request.top)}
            headers = {"X-Goog-Api-Key": self._key.text}
            body = await self._get("/customsearch/v1", query, headers, request.timeout_s)
            return _read_results(body.get("items"), ("title", "link", "snippet"), request.top)

        return await run_search(find_results, request.timeout_s, self._key)


def _read_results(entries: Any, keys: tuple[str, str, str], top: int) -> list[SearchResult]:
    """The first `top` results in a response of an engine. `keys` are the keys of a title, an address and a snippet.
    Entries that are not objects, or that have no address, are skipped.
    """
    if not isinstance(entries, list):
        return []
    results: list[SearchResult] = []
    for entry in entries:
        if isinstance(entry, dict):
            title, place, snippet = (" ".join(str(entry.get(key) or "").split()) for key in keys)
            if place:
                results.append((title, place, snippet))
    return results[:top]
