"""The base class of the kinds for chat servers that NanoFlux does not start."""

from typing import TYPE_CHECKING, ClassVar

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.base import Endpoint
from nanoflux_local.endpoints.context import Context
from nanoflux_local.endpoints.kinds.base import EndpointKind
from nanoflux_local.errors import ConfigError
from nanoflux_local.paths import Home

if TYPE_CHECKING:
    from nanoflux_local.endpoints.remote.served import ServedEndpoint


class RemoteKind(EndpointKind):
    """Builds the client of a chat server that NanoFlux does not start. A subclass names the protocol's client class in
    `import_client_class`.
    """

    structured: ClassVar[bool] = True
    takes_send: ClassVar[bool] = True
    charges: ClassVar[bool] = True

    def import_client_class(self) -> "type[ServedEndpoint]":
        """Import and return the class of the client. The import is deferred, since it takes time."""
        raise NotImplementedError

    def build(self, name: str, config: EndpointConfig, home: Home) -> Endpoint:
        """Build the client; nothing is sent before the first request.

        Raises:
            ConfigError: the address or the key is missing or wrong.
        """
        if not self.default_host and not config.addresses:
            raise ConfigError(f"endpoints.{name}.url is missing", "set the server's address, ending in /v1")
        try:
            return self.import_client_class()(
                config.model,
                urls=config.addresses,
                key_env=config.key_env,
                key_file=config.key_file,
                capacity=config.capacity,
                price=config.price,
                timeout_s=config.timeout_s,
                revision=config.revision,
                structured=config.structured,
                context=Context(config.context, config.reasoning_tokens),
                send=config.send,
            )
        except ConfigError as error:
            raise ConfigError(f"endpoints.{name}: {error.message}", error.fix) from None
