"""Any server that speaks the OpenAI chat completions protocol, through the openai SDK: vLLM, or a hosted one.

It promises no repeatability: such a server batches as it likes. Keys come from the environment, and reach no record.
"""

import os
import time
from dataclasses import replace
from typing import Any

from nanoflux_local.config import Price
from nanoflux_local.errors import ConfigError, EndpointError
from nanoflux_local.records import ChatReply, ChatRequest, Identity

TIMEOUT_S = 600.0
RETRIES = 4


class OpenAIChatEndpoint:
    """A model behind `url` (…/v1). `key_env` names the environment variable with the key, "" where none is needed.

    Raises:
        ConfigError: the variable is named and not set.
    """

    repeatable = False

    def __init__(self, model: str, url: str, key_env: str = "", capacity: int = 32, price: Price | None = None) -> None:
        self.identity = Identity("openai_chat", model, revision=url)
        self.capacity = capacity
        self.price = price
        self._url = url
        self._key = _key(key_env)
        self._client: Any = None

    async def chat(self, request: ChatRequest) -> ChatReply:
        import openai

        began = time.monotonic()
        try:
            response = await self._connected().chat.completions.create(**_body(request))
            return self._priced(request, _reply(response, time.monotonic() - began))
        except openai.APIConnectionError as error:
            why, fix = f"does not answer: {error.__cause__ or error}", "start the server, or correct the endpoint's url"
            raise self._failure(why, fix) from error
        except openai.APIStatusError as error:
            raise self._failure(f"answered {error.status_code}: {_reason(error)}") from error
        except (openai.OpenAIError, ValueError) as error:  # the SDK lets what is no JSON through as a ValueError
            raise self._failure(f"sent no usable reply: {error}") from error

    def _priced(self, request: ChatRequest, reply: ChatReply) -> ChatReply:
        """With its cost; a server that tells no usage is taken to have charged the most that it could."""
        if self.price is None:
            return reply
        read = reply.prompt_tokens or request.prompt_bytes
        written = reply.completion_tokens or request.sampling.max_tokens
        return replace(reply, usd=self.price.cost(read, written))

    def _failure(self, what: str, fix: str = "see the server's log") -> EndpointError:
        """What went wrong, without the key: servers repeat it in their messages, and a run records those."""
        told = what.replace(self._key, "[key]") if self._key else what
        return EndpointError(f"{self._url} {told}", f"{fix}; then `nanoflux run resume`")

    def _connected(self) -> Any:
        if self._client is None:
            import openai  # deferred: half a second, and most commands talk to no server

            self._client = openai.AsyncOpenAI(
                base_url=self._url, api_key=self._key or "none", timeout=TIMEOUT_S, max_retries=RETRIES
            )
        return self._client

    def count_tokens(self, text: str) -> None:
        del text  # the protocol has no tokenizer to ask

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None


def _key(name: str) -> str:
    key = os.environ.get(name, "").strip() if name else ""
    if name and not key:
        raise ConfigError(f"the environment variable {name} is not set", "export it, or change the endpoint's key_env")
    return key


def _body(request: ChatRequest) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": request.endpoint.model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": request.seed,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body


def _reason(error: Any) -> str:
    return str(getattr(error, "message", error))[:300]


def _reply(response: Any, seconds: float) -> ChatReply:
    """The reply in a response. The SDK checks nothing that a server sends, so every part may be missing or odd.

    Raises:
        ValueError: no choice, no text, or a finish reason that is neither a stop nor the length.
    """
    choices = getattr(response, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    text, finish = getattr(getattr(choice, "message", None), "content", None), getattr(choice, "finish_reason", None)
    if not isinstance(text, str):
        raise ValueError("a response without text")
    if finish not in ("stop", "length"):
        raise ValueError(f"a reply that ended with {finish!r}")
    usage = getattr(response, "usage", None)
    return ChatReply(text, finish, _tokens(usage, "prompt"), _tokens(usage, "completion"), round(seconds, 3))


def _tokens(usage: Any, kind: str) -> int:
    found = getattr(usage, f"{kind}_tokens", 0)
    return found if isinstance(found, int) else 0
