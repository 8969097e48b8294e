"""What all clients of chat servers share: one request, one reply record, its price, and nothing of the key.

A protocol says how a request is written and how a reply is read; the SDK of its maker carries both. The SDKs' own
retries are off, redirects are not followed (they could carry a key elsewhere), and a server on this machine is never
asked through a proxy.
"""

import ipaddress
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import urlsplit

from nanoflux_local.config import Price
from nanoflux_local.endpoints.faults import EmptyError, GarbledError
from nanoflux_local.endpoints.keys import Key, read_key
from nanoflux_local.endpoints.service import Service, Stake
from nanoflux_local.errors import ConfigError
from nanoflux_local.reasoning import cut_answer, with_reasoning
from nanoflux_local.records import ChatReply, ChatRequest, Finish, Identity

CAPACITY = 32
TIMEOUT_S = 60.0
CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Said:
    """What a response says, in no maker's words. Token counts are 0 where the server tells none."""

    text: str
    finish: Finish
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    thoughts: str = ""
    reasoning_tokens: int = 0


class ServedEndpoint(ABC):
    """A model behind one address, or behind several that share its requests as one endpoint.

    `key_env` and `key_file` name where its key is, "" where none is needed. `revision` pins the model where its
    address does not: it stands in the identity instead. A model that `thinks` is sent no stop strings, which its server
    would look for in the thoughts too; they are applied to the answer here.

    Raises:
        ConfigError: the key is named and not there, or a key or an address is missing.
    """

    interface: ClassVar[str]
    home: ClassVar[str] = ""
    """The maker's own address, for endpoints that name none."""
    repeatable = False

    def __init__(
        self,
        model: str,
        url: str = "",
        key_env: str = "",
        capacity: int = CAPACITY,
        price: Price | None = None,
        *,
        urls: Sequence[str] = (),
        key_file: str = "",
        timeout_s: float = TIMEOUT_S,
        revision: str = "",
        structured: bool = False,
        thinks: bool = False,
    ) -> None:
        addresses = tuple(urls) or ((url,) if url else (self.home,))
        if not all(addresses):
            raise ConfigError(f"the endpoint of {model} has no url", "give the server's address, ending in /v1")
        key = read_key(key_env, key_file)
        if self.home in addresses and not key:
            raise ConfigError(f"{self.home} asks for a key", "name its place: key_env = VARIABLE, or key_file = PATH")
        variant = "structured" if structured else ""
        self.identity = Identity(self.interface, model, revision or " ".join(addresses), variant=variant)
        self.price = price
        self.thinks = thinks
        self.service = Service(
            model, addresses, key, self.sdk, self.connect, capacity, timeout_s, gauged=self.home not in addresses
        )
        self.capacity = self.service.capacity

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            EndpointError: no usable reply came, after this endpoint's own bounded retries.
        """
        body = self.body(request)

        async def attempt(client: Any, limit_s: float) -> ChatReply:
            began = time.monotonic()
            response = await self.post(client, body, limit_s)
            return self._reply(request, response.http_response, time.monotonic() - began)

        most = request.sampling.max_tokens
        lost = 0.0 if self.price is None else self.price.cost(request.prompt_bytes, most)
        return await self.service.ask(attempt, Stake(most, request.prompt_bytes + most, lost))

    def _reply(self, request: ChatRequest, response: Any, seconds: float) -> ChatReply:
        """The record of a response, which may be anything: the SDKs check nothing that a server sends."""
        try:
            said = self.read(response.json())
        except ValueError as error:
            raise GarbledError(str(error), response.text) from None
        raw = with_reasoning(said.thoughts, said.text)
        text = cut_answer(raw, request.sampling.stop)
        reply = ChatReply(
            self.service.key.masked(text),
            said.finish if text == raw or said.finish == "refused" else "stop",
            said.prompt_tokens,
            said.completion_tokens,
            round(seconds, 3),
            self._usd(request, said),
            said.reasoning_tokens,
        )
        if not said.text.strip() and said.finish == "stop":
            raise EmptyError(reply)
        return reply

    def _usd(self, request: ChatRequest, said: Said) -> float:
        """A server that tells no usage is taken to have charged the most that it could."""
        if self.price is None:
            return 0.0
        read = said.prompt_tokens or request.prompt_bytes
        written = said.completion_tokens or request.sampling.max_tokens
        return self.price.cost(read, written, said.cached_tokens)

    @staticmethod
    @abstractmethod
    def sdk() -> ModuleType:
        """The SDK, loaded when the first request goes out: that takes half a second, and most commands send none."""

    @staticmethod
    @abstractmethod
    def connect(url: str, key: Key) -> Any:
        """A client of the SDK for an address."""

    @staticmethod
    @abstractmethod
    async def post(client: Any, body: dict[str, Any], limit_s: float) -> Any:
        """Send, and give the SDK's raw response."""

    @abstractmethod
    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The request in the protocol's words: only what the model takes."""

    @abstractmethod
    def read(self, body: Any) -> Said:
        """What a response's JSON says.

        Raises:
            ValueError: it is not what the protocol promises.
        """

    def count_tokens(self, text: str) -> int | None:
        del text  # the protocols have no tokenizer to ask
        return None

    async def close(self) -> None:
        await self.service.close()


def client_options(sdk: ModuleType, url: str) -> dict[str, Any]:
    """What every client is made with, whatever its SDK."""
    for name in ("httpcore2", sdk.__name__):  # at DEBUG these log a server's headers, and it may repeat the key in one
        logging.getLogger(name).setLevel(logging.INFO)
    http = sdk.DefaultAsyncHttpxClient(trust_env=not on_this_machine(url), follow_redirects=False)
    return {"http_client": http, "max_retries": 0}


def on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def limits(limit_s: float) -> Any:
    """A request's time limits, as the SDKs take them."""
    import httpx2

    return httpx2.Timeout(limit_s, connect=min(CONNECT_S, limit_s))


def as_object(sections: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a reply that holds these sections, each a text."""
    keys = [section_key(name) for name in sections]
    properties = {key: {"type": "string"} for key in keys}
    return {"type": "object", "properties": properties, "required": keys, "additionalProperties": False}


def section_key(name: str) -> str:
    """A section's name as a JSON key; whoever reads sections takes both spellings for one."""
    return name.replace(" ", "_")


def at(value: Any, *path: str | int) -> Any:
    """What stands at a path in JSON that may have any shape, or None."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def count(value: Any, *path: str | int) -> int:
    """A number of tokens at a path, 0 where there is none."""
    found = at(value, *path)
    return found if isinstance(found, int) and found > 0 else 0
