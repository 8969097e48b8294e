"""The OpenAI responses kind: a server with the responses protocol, by default OpenAI's."""

from typing import TYPE_CHECKING, ClassVar

from nanoflux_local.endpoints.kinds.remote import RemoteKind

if TYPE_CHECKING:
    from nanoflux_local.endpoints.remote.served import ServedEndpoint


class OpenAIResponsesKind(RemoteKind):
    name: ClassVar[str] = "openai_responses"
    default_host: ClassVar[str] = "api.openai.com"

    def import_client_class(self) -> "type[ServedEndpoint]":
        from nanoflux_local.endpoints.remote.openai_responses import OpenAIResponsesEndpoint

        return OpenAIResponsesEndpoint


KIND = OpenAIResponsesKind()
