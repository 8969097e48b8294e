"""The protocols of chat endpoints and embedders. They own no connection and know no role."""

from typing import Protocol

from nanoflux_local.endpoints.context import Context
from nanoflux_local.records import ChatReply, ChatRequest, EmbedReply, EmbedRequest, Identity


class Endpoint(Protocol):
    """A model that answers chat requests.

    `identity` is everything that decides its replies. `repeatable` says whether the same request always gets the
    same reply, whatever else is asked at the same time; a run records it. `capacity` is how many requests it can
    usefully hold at once. `context` is what its model holds, as far as that is known here.
    """

    identity: Identity
    repeatable: bool
    capacity: int
    context: Context

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            EndpointError: no usable reply came, after the endpoint's own bounded retries.
        """
        ...

    def count_tokens(self, text: str) -> int | None:
        """Tokens of `text` in the endpoint's tokenizer, or None if it has no tokenizer."""
        ...

    async def close(self) -> None:
        """Release what the endpoint holds. Safe to call twice."""
        ...


class Embedder(Protocol):
    """A model that turns texts into unit vectors; `identity` is everything that decides them."""

    identity: Identity

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Return the vector of one text.

        Raises:
            EndpointError: no usable vector came, after the embedder's own bounded retries.
        """
        ...

    async def close(self) -> None:
        """Release what the embedder holds. Safe to call twice."""
        ...
