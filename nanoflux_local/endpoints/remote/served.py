"""What all clients of chat servers share: one request, one reply record, its price, and nothing of the key.

A protocol says how a request is written and how a reply is read; the SDK of its maker carries both. The SDKs' own
retries are off, redirects are not followed (they could carry a key elsewhere), and a server on this machine is never
asked through a proxy.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import urlsplit

from nanoflux_local.config import Price, Send
from nanoflux_local.endpoints.context import Context
from nanoflux_local.endpoints.faults import ROUTES, EmptyError, GarbledError, announce
from nanoflux_local.endpoints.remote.accepted import Accepted, accepted_by, format_change, lessons
from nanoflux_local.endpoints.remote.error_body import read_error
from nanoflux_local.endpoints.remote.keys import Key, read_key
from nanoflux_local.endpoints.remote.network import http_options
from nanoflux_local.endpoints.remote.service import Service, Stake
from nanoflux_local.endpoints.remote.shapes import load_json
from nanoflux_local.errors import ConfigError
from nanoflux_local.reasoning import cut_answer, with_reasoning
from nanoflux_local.records import ChatReply, ChatRequest, Fault, Finish, Identity

REFUSED_PARAMETER = (400, 422)
"""Statuses with which servers refuse a parameter."""
CAPACITY = 32
TIMEOUT_S = 60.0
CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Said:
    """What a response says, independent of the protocol. Token counts are 0 if the server reports none."""

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
    address does not: it stands in the identity instead. A model with room for thoughts in its `context` is sent no stop
    strings, which its server would look for in the thoughts too; they are applied to the answer here. `send` says what
    else the server takes or does not, where that is clear neither from the model's name nor from the server's refusals.

    Raises:
        ConfigError: the key is named and not there, or a key or an address is missing, or an address is no base url.
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
        context: Context | None = None,
        send: Send | None = None,
    ) -> None:
        addresses = tuple(urls) or ((url,) if url else (self.home,))
        if not all(addresses):
            raise ConfigError(f"the endpoint of {model} has no url", "give the server's address, ending in /v1")
        for address in addresses:
            check_address(address)
        key = read_key(key_env, key_file)
        if self.home in addresses and not key:
            raise ConfigError(f"{self.home} requires a key", "set key_env = VARIABLE, or key_file = PATH")
        variant = "structured" if structured else ""
        self.identity = Identity(self.interface, model, revision or " ".join(addresses), variant=variant)
        self.price = price
        self.context = context or Context()
        self.accepted = accepted_by(model, self.context.reasoning > 0, send)
        self._decided = set(send.model_dump(exclude_none=True)) if send else set()
        self.service = Service(
            model, addresses, key, self.sdk, self.connect, capacity, timeout_s, gauged=self.home not in addresses
        )
        self.capacity = self.service.capacity

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            EndpointError: no usable reply came, after this endpoint's own bounded retries.
        """

        async def attempt(client: Any, limit_s: float) -> ChatReply:
            began = time.monotonic()
            response = await self._post(client, request, limit_s)
            return self._reply(request, response.http_response, time.monotonic() - began)

        most = request.sampling.max_tokens
        lost = 0.0 if self.price is None else self.price.cost(request.prompt_bytes, most)
        return await self.service.ask(attempt, Stake(most, request.prompt_bytes + most, lost))

    async def _post(self, client: Any, request: ChatRequest, limit_s: float) -> Any:
        """Send the request; if it is refused for a parameter, send it at once without that one or with another.

        What the server then takes is learned, and reported once. A parameter whose refusal is repeated was not the
        reason; then nothing is learned, and the last refusal stands.
        """
        accepted, learned = self.accepted, dict[str, Any]()
        while True:
            try:
                response = await self.post(client, self.body(request, accepted), limit_s)
            except self.sdk().APIStatusError as error:
                changes = self._lessons(error, accepted, request, learned)
                if not changes:
                    raise
                learned |= changes
                accepted = replace(accepted, **changes)
            else:
                self._learn(learned)
                return response

    def _lessons(
        self, error: Any, accepted: Accepted, request: ChatRequest, learned: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What to change about a refused request that may be sent again: a value only gets narrower, and a switch that
        the user has set stays.
        """
        if error.status_code not in REFUSED_PARAMETER:
            return {}
        changes = lessons(read_error(error.response.content), accepted, request)
        fixed = self._decided | {name for name in learned if learned[name] is False or name == "max_tokens"}
        return {name: value for name, value in changes.items() if name not in fixed}

    def _learn(self, changes: Mapping[str, Any]) -> None:
        """Send no later request what the server refused, and report it unless another request already did."""
        fresh = {name: value for name, value in changes.items() if getattr(self.accepted, name) != value}
        if not fresh:
            return
        self.accepted = replace(self.accepted, **fresh)
        names, switches = " and ".join(fresh), format_change(fresh)
        message = (
            f"the server refuses {names}; requests now go out as with {switches}, which the endpoint's table can state"
        )
        announce(Fault(self.identity.model, "refused_parameter", message))

    def _reply(self, request: ChatRequest, response: Any, seconds: float) -> ChatReply:
        """The record of a response, which may be anything: the SDKs check nothing that a server sends."""
        try:
            said = self.read(load_json(response))
        except ValueError as error:
            raise GarbledError(str(error), response.text) from None
        raw = with_reasoning(said.thoughts, said.text)
        text = cut_answer(raw, request.sampling.stop)
        reply = ChatReply(
            self.service.key.mask(text),
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
        """The price of a reply. Without reported usage, the highest possible price is assumed."""
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
        """Send the request, and return the SDK's raw response."""

    @abstractmethod
    def body(self, request: ChatRequest, accepted: Accepted) -> dict[str, Any]:
        """The request body in the protocol's format, with accepted parameters only."""

    @abstractmethod
    def read(self, body: Any) -> Said:
        """What a response's JSON says.

        Raises:
            ValueError: the response is not a reply.
            StatedError: the response reports an error.
            NoAnswerError: the response has no answer, and a retry would not change that.
        """

    def count_tokens(self, text: str) -> int | None:
        del text  # the protocols have no tokenizer to ask
        return None

    async def close(self) -> None:
        await self.service.close()


def client_options(sdk: ModuleType, url: str) -> dict[str, Any]:
    """The options that all SDK clients share."""
    for name in ("httpcore2", sdk.__name__):  # at DEBUG these log a server's headers, and it may repeat the key in one
        logging.getLogger(name).setLevel(logging.INFO)
    return {"http_client": sdk.DefaultAsyncHttpxClient(**http_options(url)), "max_retries": 0}


def check_address(url: str) -> None:
    """Refuse an invalid url.

    Raises:
        ConfigError: the port is invalid, or the url contains a route, which is added later.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ConfigError(f"the url {url} has no valid port", "name a port from 1 to 65535, or none")
    route = next((route for route in ROUTES if parts.path.rstrip("/").endswith(route)), "")
    if route:
        base = parts._replace(path=parts.path.rstrip("/").removesuffix(route)).geturl()
        raise ConfigError(f"the url {url} ends in {route}, which is added to it", f'write url = "{base}"')


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
    """A section's name as a JSON key; the section reader accepts both spellings."""
    return name.replace(" ", "_")
