"""The client for embeddings from a server that speaks the OpenAI protocol (vLLM, or a hosted service)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanoflux_local.config import Price
from nanoflux_local.endpoints.faults import GarbledError
from nanoflux_local.endpoints.remote.keys import read_key
from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint
from nanoflux_local.endpoints.remote.served import CAPACITY, TIMEOUT_S, build_timeout, check_address
from nanoflux_local.endpoints.remote.service import AttemptBounds, Service
from nanoflux_local.endpoints.remote.shapes import check_error, load_json, value_at
from nanoflux_local.errors import ConfigError
from nanoflux_local.records import EmbedReply, EmbedRequest, Identity, Vector

DEFAULT_URL = "https://api.openai.com/v1"
"""The base URL that is used if a profile states none."""


class ServedEmbedder:
    """Unit-length float32 vectors of texts. Each text is sent separately, so that its vector depends on no other text.

    Raises:
        ConfigError: a key is missing, or an address is not a base URL.
    """

    def __init__(
        self,
        model: str,
        urls: Sequence[str] = (),
        key_env: str = "",
        key_file: str = "",
        price: Price | None = None,
        capacity: int = CAPACITY,
        timeout_s: float = TIMEOUT_S,
        revision: str = "",
    ) -> None:
        addresses = tuple(urls) or (DEFAULT_URL,)
        for address in addresses:
            check_address(address)
        key = read_key(key_env, key_file)
        if DEFAULT_URL in addresses and not key:
            raise ConfigError(f"{DEFAULT_URL} requires a key", "set key_env = VARIABLE, or key_file = PATH")
        self.identity = Identity("openai_embeddings", model, revision or " ".join(addresses))
        self.price = price
        # Embeddings use the same SDK and the same connection as chat.
        sdk, connect = OpenAIChatEndpoint.sdk, OpenAIChatEndpoint.connect
        self._service = Service(model, addresses, key, sdk, connect, capacity, timeout_s)

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Return the vector of one text.

        Raises:
            EndpointError: no usable vector was received after bounded retries.
        """
        text = request.text.encode("utf-8", "replace").decode() or " "  # servers refuse an empty text

        async def send_request(client: Any, timeout_s: float) -> EmbedReply:
            raw_response = await client.embeddings.with_raw_response.create(
                model=request.endpoint.model, input=text, encoding_format="float", timeout=build_timeout(timeout_s)
            )
            response = raw_response.http_response
            try:
                body = load_json(response)
                check_error(body, "data")
                return EmbedReply.of(_normalize(value_at(body, "data", 0, "embedding")))
            except ValueError as error:
                raise GarbledError(str(error), response.text) from None

        max_prompt_tokens = len(text.encode())  # a token has at least one byte
        max_usd = 0.0 if self.price is None else self.price.cost(max_prompt_tokens, 0)
        bounds = AttemptBounds(tokens=1, lost_tokens=max_prompt_tokens, lost_usd=max_usd)
        return await self._service.ask(send_request, bounds)

    async def close(self) -> None:
        await self._service.close()


def _normalize(numbers: Any) -> Vector:
    """Scale an embedding from a server to length 1.

    Raises:
        ValueError: the embedding is not a nonzero vector of finite numbers.
    """
    if not isinstance(numbers, list) or not numbers:
        raise ValueError("a response without an embedding")
    try:
        vector = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("an embedding that is not a list of numbers") from None
    norm = float(np.linalg.norm(vector)) if vector.ndim == 1 else 0.0
    if not np.isfinite(norm) or norm == 0:
        raise ValueError("an embedding that is not a nonzero vector of finite numbers")
    return np.asarray(vector / norm, dtype=np.float32)
