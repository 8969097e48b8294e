"""The endpoint kinds: every module of this package with a `KIND` defines one.

A profile selects a kind with the key `interface`. A kind states what its endpoints can do, and builds them. No other
module lists the kinds: the code for settings, adapters and prices reads the capabilities that a kind states.
"""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import ClassVar

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.base import Embedder, Endpoint
from nanoflux_local.errors import ConfigError
from nanoflux_local.paths import Home
from nanoflux_local.suggestions import suggest


class EndpointKind:
    """A kind of endpoint: states the endpoints' capabilities and builds them. `name` is their `interface` in a profile.

    A kind builds chat endpoints (`build`), embedders (`build_embedder`), or both. Importing a kind's module must be
    cheap, so SDKs and torch are imported only when an endpoint is built.
    """

    name: ClassVar[str]
    in_profiles: ClassVar[bool] = True
    """Whether a profile may select this kind; if not, only commands that work on a single model use it."""
    local: ClassVar[bool] = False
    """Whether the model's weights and manifest are on this machine."""
    managed: ClassVar[bool] = False
    """Whether NanoFlux starts and stops the server of the model."""
    takes_adapter: ClassVar[bool] = False
    """Whether the model can have an adapter."""
    supports_prefill: ClassVar[bool] = False
    """Whether the model continues the last message if that message is the beginning of a reply."""
    fixed_context: ClassVar[bool] = False
    """Whether the context length is always the model's, so that a profile cannot set it."""
    structured: ClassVar[bool] = False
    """Whether a reply's sections can be requested as one JSON object."""
    takes_send: ClassVar[bool] = False
    """Whether a profile may set `send`, the parameters that the server accepts."""
    batch_invariant: ClassVar[bool] = False
    """Whether the server can be started in batch-invariant mode."""
    charges: ClassVar[bool] = False
    """Whether the server's operator may charge for requests."""
    default_host: ClassVar[str] = ""
    """The host to which requests are sent, and whose prices apply, if a configuration states no address."""

    def build(self, name: str, config: EndpointConfig, home: Home) -> Endpoint:
        """Build the endpoint `name` of a profile.

        Raises:
            ConfigError: the kind has no chat endpoints, or a setting is missing.
        """
        message = f"endpoints.{name}: the interface {self.name!r} has no chat models, so no role can use it"
        raise ConfigError(message, "bind the role to a chat model")

    def build_together(
        self, configs: Mapping[str, EndpointConfig], home: Home, concurrency: int
    ) -> tuple[dict[str, Endpoint], dict[str, str]]:
        """Build all endpoints of this kind in a profile.

        At most `concurrency` requests run concurrently; 0 means no limit. Returns two dictionaries by endpoint name:
        the endpoints, and the group in which each takes turns on a GPU. An endpoint that is missing from the second
        dictionary stays in the group that the profile sets.
        """
        return {name: self.build(name, config, home) for name, config in configs.items()}, {}

    def build_embedder(self, config: EndpointConfig, home: Home) -> Embedder:
        """Build an embedder.

        Raises:
            ConfigError: the kind has no embedders.
        """
        raise ConfigError(f"the interface {self.name!r} has no embedders", "bind the embedder to another endpoint")


@cache
def endpoint_kinds() -> Mapping[str, EndpointKind]:
    """All endpoint kinds, sorted by name."""
    package_name = __name__.rpartition(".")[0]
    package_path = import_module(package_name).__path__
    modules = [import_module(f"{package_name}.{entry.name}") for entry in pkgutil.iter_modules(package_path)]
    kinds: list[EndpointKind] = [module.KIND for module in modules if hasattr(module, "KIND")]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.name)}


def find_kind(interface: str) -> EndpointKind:
    """Return the kind whose name is `interface`.

    Raises:
        ConfigError: there is no such kind.
    """
    kinds = endpoint_kinds()
    if interface not in kinds:
        fix = suggest(interface, (kind.name for kind in kinds.values() if kind.in_profiles))
        raise ConfigError(f"interface: there is no interface {interface!r}", fix)
    return kinds[interface]


def list_adapter_kinds(in_profiles: bool = False) -> tuple[str, ...]:
    """The names of the kinds that take an adapter; with `in_profiles`, only those that a profile may select."""
    kinds = [kind for kind in endpoint_kinds().values() if kind.takes_adapter]
    return tuple(kind.name for kind in kinds if kind.in_profiles or not in_profiles)


def interface_supports_prefill(interface: str) -> bool:
    """Whether endpoints of this kind continue the beginning of a reply. False for a kind that no longer exists but that
    an old ledger still names.
    """
    kind = endpoint_kinds().get(interface)
    return kind is not None and kind.supports_prefill
