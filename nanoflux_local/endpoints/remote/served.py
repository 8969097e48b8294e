"""The base class of all clients of chat servers: sends a request, reads the reply, computes its cost, and keeps the key
secret.

A subclass for each protocol writes the requests and parses the replies; the provider's SDK sends the requests. The
SDKs' own retries are off. Redirects are not followed, since they could send a key to another server. Requests to a
server on this machine never use a proxy.
"""

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import urlsplit

from nanoflux_local.config import Price, Send
from nanoflux_local.endpoints.context import Context
from nanoflux_local.endpoints.faults import ROUTES, EmptyError, GarbledError, report_and_log
from nanoflux_local.endpoints.remote.accepted import (
    AcceptedParameters,
    format_change,
    infer_accepted,
    learn_from_refusal,
)
from nanoflux_local.endpoints.remote.error_body import read_error
from nanoflux_local.endpoints.remote.keys import ApiKey, read_key
from nanoflux_local.endpoints.remote.network import http_options
from nanoflux_local.endpoints.remote.service import AttemptBounds, Service
from nanoflux_local.endpoints.remote.shapes import load_json
from nanoflux_local.errors import ConfigError
from nanoflux_local.reasoning import cut_answer, with_reasoning
from nanoflux_local.records import ChatReply, ChatRequest, Fault, Finish, Identity

RequestBody = dict[str, Any]
"""The JSON object that a request sends, in the protocol of the server."""
PARAMETER_REFUSAL_STATUSES = (400, 422)
"""Statuses with which servers refuse a parameter."""
END_TOKEN = re.compile(r"<\|(?:return|end|call)\|>")
"""The tokens with which gpt-oss ends a message."""
CAPACITY = 32
"""The default number of concurrent requests to one server."""
TIMEOUT_S = 60.0
"""The default minimum timeout of a request."""
CONNECT_S = 10.0
"""The timeout for connecting to a server."""


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A response, independent of the protocol. Token counts are 0 if the server reports none. `cached_tokens` counts
    the prompt tokens that the server read from its cache.
    """

    text: str
    finish: Finish
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning: str = ""
    reasoning_tokens: int = 0


class ServedEndpoint(ABC):
    """A model behind one address, or behind several addresses among which its requests are distributed.

    `key_env` or `key_file` names the source of the key; both are "" if no key is needed. `revision` replaces the
    addresses in the identity. Stop strings are not sent to a model whose `context` has reasoning tokens, since its
    server would apply them to the reasoning; instead, the client applies them to the answer. `send` states which
    parameters the server accepts, and overrides what the model's name and the server's refusals suggest.

    Raises:
        ConfigError: a key or an address is missing, or an address is not a base URL.
    """

    interface: ClassVar[str]
    default_url: ClassVar[str] = ""
    """The provider's base URL, for endpoints that state none."""
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
        addresses = tuple(urls) or (url or self.default_url,)
        if not all(addresses):
            raise ConfigError(f"the endpoint of {model} has no url", "set the server's address, ending in /v1")
        for address in addresses:
            check_address(address)
        key = read_key(key_env, key_file)
        if self.default_url in addresses and not key:
            raise ConfigError(f"{self.default_url} requires a key", "set key_env = VARIABLE, or key_file = PATH")
        variant = "structured" if structured else ""
        self.identity = Identity(self.interface, model, revision or " ".join(addresses), variant=variant)
        self.price = price
        self.context = context or Context()
        self.accepted = infer_accepted(model, self.context.reasoning > 0, send)
        self._user_switches = set(send.model_dump(exclude_none=True)) if send else set()
        self.service = Service(
            model,
            addresses,
            key,
            self.sdk,
            self.connect,
            capacity,
            timeout_s,
            reads_metrics=self.default_url not in addresses,
        )
        self.capacity = self.service.capacity

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            EndpointError: no usable reply was received after bounded retries.
        """

        async def send_request(client: Any, timeout_s: float) -> ChatReply:
            start = time.monotonic()
            response = await self._post_until_accepted(client, request, timeout_s)
            return self._read_response(request, response.http_response, time.monotonic() - start)

        max_tokens = request.sampling.max_tokens
        max_prompt_tokens = request.prompt_bytes  # a token has at least one byte
        max_usd = 0.0 if self.price is None else self.price.cost(max_prompt_tokens, max_tokens)
        bounds = AttemptBounds(max_tokens, lost_tokens=max_prompt_tokens + max_tokens, lost_usd=max_usd)
        return await self.service.ask(send_request, bounds)

    async def _post_until_accepted(self, client: Any, request: ChatRequest, timeout_s: float) -> Any:
        """Send the request. If the server refuses a parameter, resend the request immediately, without that parameter
        or with a different value.

        If the changed request is accepted, the changes apply to later requests and are reported once. If the server
        refuses the changed request as well, the parameter was not the reason: the changes are dropped, and the last
        refusal is raised.
        """
        accepted = self.accepted
        changes_so_far: dict[str, Any] = {}
        while True:
            try:
                response = await self.post(client, self.build_body(request, accepted), timeout_s)
            except self.sdk().APIStatusError as error:
                changes = self._find_changes(error, accepted, request, changes_so_far)
                if not changes:
                    raise
                changes_so_far |= changes
                accepted = replace(accepted, **changes)
            else:
                self._apply_changes(changes_so_far)
                return response

    def _find_changes(
        self, error: Any, accepted: AcceptedParameters, request: ChatRequest, changes_so_far: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The parameters to change before a refused request is sent again. A change only restricts what is sent, and
        never changes a switch that the user has set.
        """
        if error.status_code not in PARAMETER_REFUSAL_STATUSES:
            return {}
        changes = learn_from_refusal(read_error(error.response.content), accepted, request)
        # "max_tokens" is changed only once, since the parameter's two names would otherwise alternate.
        final_switches = {name for name, value in changes_so_far.items() if value is False or name == "max_tokens"}
        return {
            name: value
            for name, value in changes.items()
            if name not in final_switches and name not in self._user_switches
        }

    def _apply_changes(self, changes: Mapping[str, Any]) -> None:
        """Apply the changes to later requests, and report them unless another request already did."""
        new_changes = {name: value for name, value in changes.items() if getattr(self.accepted, name) != value}
        if not new_changes:
            return
        self.accepted = replace(self.accepted, **new_changes)
        parameter_names = " and ".join(new_changes)
        message = (
            f"the server refuses {parameter_names}; later requests use {format_change(new_changes)}; "
            "set this in the endpoint's table to avoid the refusal"
        )
        report_and_log(Fault(self.identity.model, "refused_parameter", message))

    def _read_response(self, request: ChatRequest, response: Any, seconds: float) -> ChatReply:
        """Read the reply in a response, and check it, since the SDKs do not.

        Raises:
            GarbledError: the response is not a reply.
            EmptyError: the reply has no text.
        """
        try:
            parsed = _drop_lone_end_token(self.parse_reply(load_json(response)))
        except ValueError as error:
            raise GarbledError(str(error), response.text) from None
        raw_reply = with_reasoning(parsed.reasoning, parsed.text)
        text = cut_answer(raw_reply, request.sampling.stop)
        ends_at_stop_string = text != raw_reply and parsed.finish != "refused"
        reply = ChatReply(
            text=self.service.key.mask(text),
            finish="stop" if ends_at_stop_string else parsed.finish,
            prompt_tokens=parsed.prompt_tokens,
            completion_tokens=parsed.completion_tokens,
            seconds=round(seconds, 3),
            usd=self._compute_cost(request, parsed),
            reasoning_tokens=parsed.reasoning_tokens,
        )
        if not parsed.text.strip() and parsed.finish == "stop":
            raise EmptyError(reply)
        return reply

    def _compute_cost(self, request: ChatRequest, parsed: ParsedReply) -> float:
        """The cost of a reply in dollars; the highest possible cost if the server reports no usage."""
        if self.price is None:
            return 0.0
        prompt_tokens = parsed.prompt_tokens or request.prompt_bytes
        completion_tokens = parsed.completion_tokens or request.sampling.max_tokens
        return self.price.cost(prompt_tokens, completion_tokens, parsed.cached_tokens)

    @staticmethod
    @abstractmethod
    def sdk() -> ModuleType:
        """Import the SDK and return it. The import takes half a second, so it is deferred to the first request."""

    @staticmethod
    @abstractmethod
    def connect(url: str, key: ApiKey) -> Any:
        """Make a client of the SDK for an address."""

    @staticmethod
    @abstractmethod
    async def post(client: Any, body: RequestBody, timeout_s: float) -> Any:
        """Send the request, and return the SDK's raw response."""

    @abstractmethod
    def build_body(self, request: ChatRequest, accepted: AcceptedParameters) -> RequestBody:
        """The request body in the protocol's format, with only the accepted parameters."""

    @abstractmethod
    def parse_reply(self, body: Any) -> ParsedReply:
        """Parse a response's JSON.

        Raises:
            ValueError: the response is not a reply.
            ResponseBodyError: the response states an error.
            NoAnswerError: the reply is not an answer, and a retry would not change that.
        """

    def count_tokens(self, text: str) -> int | None:
        """Return None, since the protocols offer no way to count tokens."""
        del text
        return None

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        await self.service.close()


def _drop_lone_end_token(parsed: ParsedReply) -> ParsedReply:
    """Remove the text of a reply that consists only of its end token: vLLM 0.32 sends gpt-oss's end token as text."""
    return replace(parsed, text="") if END_TOKEN.fullmatch(parsed.text.strip()) else parsed


def build_client_options(sdk: ModuleType, url: str) -> dict[str, Any]:
    """The options of every SDK client."""
    # At level DEBUG, these loggers record response headers, in which a server may repeat the key.
    for name in ("httpcore2", sdk.__name__):
        logging.getLogger(name).setLevel(logging.INFO)
    return {"http_client": sdk.DefaultAsyncHttpxClient(**http_options(url)), "max_retries": 0}


def check_address(url: str) -> None:
    """Check an endpoint's url.

    Raises:
        ConfigError: the port is invalid, or the url ends in a route, which the SDK would append again.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ConfigError(f"the url {url} has no valid port", "set a port from 1 to 65535, or leave it out")
    path = parts.path.rstrip("/")
    route = next((route for route in ROUTES if path.endswith(route)), "")
    if route:
        base_url = parts._replace(path=path.removesuffix(route)).geturl()
        raise ConfigError(f"the url {url} ends in {route}, which NanoFlux appends", f'write url = "{base_url}"')


def build_timeout(timeout_s: float) -> Any:
    """A request's timeouts, in the form that the SDKs expect."""
    import httpx2

    return httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))


def build_sections_schema(sections: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a reply with these sections, each a string."""
    keys = [section_key(name) for name in sections]
    properties = {key: {"type": "string"} for key in keys}
    return {"type": "object", "properties": properties, "required": keys, "additionalProperties": False}


def section_key(name: str) -> str:
    """A section's name as a JSON key. The code that reads sections accepts spaces and underscores."""
    return name.replace(" ", "_")
