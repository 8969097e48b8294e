"""The OpenAI chat kind: any server with the chat completions protocol, such as vLLM or llama.cpp."""

from typing import TYPE_CHECKING, ClassVar

from nanoflux_local.endpoints.kinds.remote import RemoteKind

if TYPE_CHECKING:
    from nanoflux_local.endpoints.remote.served import ServedEndpoint


class OpenAIChatKind(RemoteKind):
    name: ClassVar[str] = "openai_chat"

    def import_client_class(self) -> "type[ServedEndpoint]":
        from nanoflux_local.endpoints.remote.openai_chat import OpenAIChatEndpoint

        return OpenAIChatEndpoint


KIND = OpenAIChatKind()
