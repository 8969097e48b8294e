"""The protocols of chat endpoints and embedders."""

from typing import Protocol

from nanoflux_local.endpoints.context import Context
from nanoflux_local.records import ChatReply, ChatRequest, EmbedReply, EmbedRequest, Identity


class Endpoint(Protocol):
    """A model that answers chat requests.

    `identity` names everything that determines its replies. `repeatable` is true if a repeated request always gets the
    same reply, whatever other requests are in flight; a run records this flag. `capacity` is the maximum number of
    concurrent requests. `context` states the length of the model's context and the limit on its reasoning.
    """

    identity: Identity
    repeatable: bool
    capacity: int
    context: Context

    async def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request.

        Raises:
            EndpointError: no usable reply was received after bounded retries.
        """
        ...

    def count_tokens(self, text: str) -> int | None:
        """Count the tokens of `text`; None if the model's tokenizer is not on this machine."""
        ...

    async def close(self) -> None:
        """Release the endpoint's resources. Safe to call twice."""
        ...


class Embedder(Protocol):
    """A model that turns texts into unit vectors; `identity` names everything that determines the vectors."""

    identity: Identity

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Return the vector of one text.

        Raises:
            EndpointError: no usable vector was received after bounded retries.
        """
        ...

    async def close(self) -> None:
        """Release the embedder's resources. Safe to call twice."""
        ...
