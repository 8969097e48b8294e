"""Checks that a private server's list of models contains the model of its endpoint.

The ledger stores replies by address and model, so a different model behind the same address would go unnoticed. Only
servers on this machine or in a private network are queried. A server without a list of models is not reported.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.remote.network import http_options
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.shapes import value_at
from nanoflux_local.errors import EndpointError

TIMEOUT_S = 3.0
"""The timeout of a query for a server's list."""
PRIVATE_NAMES = (".local", ".lan", ".internal", ".home.arpa", ".localdomain")
"""The endings of host names in private networks."""
MAX_SHOWN = 3
"""The number of listed models that a message shows."""


async def list_model_warnings(endpoints: Mapping[str, Endpoint]) -> list[str]:
    """A warning for each server whose list lacks its endpoint's model. `endpoints` maps names to endpoints."""
    checks: list[Awaitable[str]] = []
    for name, endpoint in endpoints.items():
        if isinstance(endpoint, OpenAIChatEndpoint):
            private_urls = [url for url in endpoint.service.urls if is_private(url)]
            checks += [_check_server(name, endpoint, url) for url in private_urls]
    warnings = await asyncio.gather(*checks)
    return [warning for warning in warnings if warning]


async def _check_server(name: str, endpoint: OpenAIChatEndpoint, url: str) -> str:
    """The warning if the server's list lacks the endpoint's model, else ""."""
    model = endpoint.identity.model
    listed_names = await _try_fetch_listing(url, endpoint.service.key.text)
    if not listed_names or any(is_same_model(model, listed_name) for listed_name in listed_names):
        return ""
    shown_names = ", ".join(listed_names[:MAX_SHOWN])
    ending = ", …" if len(listed_names) > MAX_SHOWN else ""
    return (
        f"endpoints.{name}: {url} does not list the model {model}; it lists {shown_names}{ending};"
        " correct the endpoint's model or url"
    )


async def _try_fetch_listing(url: str, key: str) -> list[str]:
    """The models that a server lists; empty if it lists none, or if the query fails. If it fails, the first request to
    the model reports the cause.
    """
    try:
        return await fetch_listing(url, key)
    except EndpointError:
        return []


async def fetch_listing(url: str, key: str) -> list[str]:
    """The models that a server lists at `url`/models; [] if its answer has no list of models. The caller must have
    allowed connections to the server's host (`guard.allow`).

    Raises:
        EndpointError: the server does not answer, or its answer is not JSON.
    """
    import httpx2

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, **http_options(url)) as client:
            response = await client.get(f"{url.rstrip('/')}/models", headers=headers)
        if response.status_code != 200:
            raise EndpointError(f"{url}/models answers {response.status_code}", "correct the endpoint's url or key")
        return list(read_listing(response.json()))
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        fix = "start the server, or correct the endpoint's url"
        raise EndpointError(f"{url} does not answer: {error or type(error).__name__}", fix) from None
    except (ValueError, RecursionError):
        raise EndpointError(f"{url}/models does not answer with JSON", "correct the endpoint's url") from None


def read_listing(body: Any) -> Iterator[str]:
    """Yield the models' names in a listing (the keys "data" or "models"); nothing if the JSON has another shape."""
    models = value_at(body, "data") or value_at(body, "models")
    if not isinstance(models, list):
        return
    for model in models:
        for key in ("id", "root", "name"):
            name = value_at(model, key)
            if isinstance(name, str) and name:
                yield name[:200]


def is_same_model(model: str, listed_name: str) -> bool:
    """Whether a listed name stands for `model`. Ollama appends a tag to a name, and gateways list patterns."""
    return (
        listed_name == model
        or listed_name.startswith(f"{model}:")
        or ("*" in listed_name and fnmatchcase(model, listed_name))
    )


def is_private(url: str) -> bool:
    """Whether a url's host is this machine or in a private network, judged by the host's address or name."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(PRIVATE_NAMES)
