"""The protocols of chat endpoints and embedders."""

from typing import Protocol

from nanoflux_local.endpoints.context import Context
from nanoflux_local.records import ChatReply, ChatRequest, EmbedReply, EmbedRequest, Identity


class Endpoint(Protocol):
    """A model that answers chat requests.

    `identity` names everything that decides its replies. `repeatable` says whether the same request always gets the
    same reply, whatever other requests are in flight; a run records it. `capacity` is the number of concurrent
    requests. `context` is the length of the model's context, as far as it is known.
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
        """Count the tokens of `text`; None if the endpoint has no tokenizer here."""
        ...

    async def close(self) -> None:
        """Release the endpoint's resources. Safe to call twice."""
        ...


class Embedder(Protocol):
    """A model that turns texts into unit vectors; `identity` names everything that decides them."""

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
