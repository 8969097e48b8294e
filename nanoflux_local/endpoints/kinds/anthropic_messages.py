"""The Anthropic messages kind: a server with the messages protocol, by default Anthropic's."""

from typing import TYPE_CHECKING, ClassVar

from nanoflux_local.endpoints.kinds.remote import RemoteKind

if TYPE_CHECKING:
    from nanoflux_local.endpoints.remote.served import ServedEndpoint


class AnthropicMessagesKind(RemoteKind):
    name: ClassVar[str] = "anthropic_messages"
    default_host: ClassVar[str] = "api.anthropic.com"

    def import_client_class(self) -> "type[ServedEndpoint]":
        from nanoflux_local.endpoints.remote.anthropic_messages import AnthropicMessagesEndpoint

        return AnthropicMessagesEndpoint


KIND = AnthropicMessagesKind()
