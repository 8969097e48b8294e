"""The endpoint kinds: every module of this package with a `KIND` defines one.

A profile names a kind as `interface`. A kind states what its endpoints can do, and builds them. No other module lists
kinds: settings, adapters and prices are handled by what a kind states.
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
    """One kind of endpoint: its abilities, and how it is built. `name` is the `interface` of its configurations.

    A kind builds chat endpoints (`build`), embedders (`build_embedder`), or both. Importing its module must be cheap:
    SDKs and torch are imported when an endpoint is built.
    """

    name: ClassVar[str]
    in_profiles: ClassVar[bool] = True
    """Whether a profile may name it; if not, only commands on one model use it."""
    local: ClassVar[bool] = False
    """Whether the model's weights and manifest are on this machine."""
    managed: ClassVar[bool] = False
    """Whether NanoFlux starts and stops the model's server."""
    takes_adapter: ClassVar[bool] = False
    """Whether its model can have an adapter."""
    continues: ClassVar[bool] = False
    """Whether it continues a reply whose beginning is the last message."""
    fixed_context: ClassVar[bool] = False
    """Whether its context length is the model's and cannot be set."""
    structured: ClassVar[bool] = False
    """Whether it can return sections as one JSON object."""
    takes_send: ClassVar[bool] = False
    """Whether the `send` settings apply to it."""
    batch_invariant: ClassVar[bool] = False
    """Whether its server can be started batch-invariant."""
    charges: ClassVar[bool] = False
    """Whether its server is run by others, who may charge for requests."""
    default_host: ClassVar[str] = ""
    """The host whose server and prices are used if a configuration names no address."""

    def build(self, name: str, config: EndpointConfig, home: Home) -> Endpoint:
        """Build the endpoint `name` of a profile.

        Raises:
            ConfigError: the kind has no chat endpoints, or a setting is missing.
        """
        message = f"endpoints.{name}: the interface {self.name!r} has no chat models, so it cannot play a role"
        raise ConfigError(message, "bind the role to a chat model")

    def build_together(
        self, configs: Mapping[str, EndpointConfig], home: Home, concurrency: int
    ) -> tuple[dict[str, Endpoint], dict[str, str]]:
        """Build all endpoints of this kind in a profile, by name. The second result is the group in which an endpoint
        takes turns on a GPU, if the placement needs one that the profile does not state.

        At most `concurrency` requests run at once; 0: no limit.
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
    package = __name__.rpartition(".")[0]
    modules = [
        import_module(f"{package}.{entry.name}") for entry in pkgutil.iter_modules(import_module(package).__path__)
    ]
    kinds: list[EndpointKind] = [module.KIND for module in modules if hasattr(module, "KIND")]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.name)}


def find_kind(interface: str) -> EndpointKind:
    """The kind of this name.

    Raises:
        ConfigError: there is no such kind.
    """
    kinds = endpoint_kinds()
    if interface not in kinds:
        fix = suggest(interface, (kind.name for kind in kinds.values() if kind.in_profiles))
        raise ConfigError(f"interface: there is no endpoint kind {interface!r}", fix)
    return kinds[interface]


def adapter_kinds(in_profiles: bool = False) -> tuple[str, ...]:
    """The names of the kinds that take an adapter; with `in_profiles`, only those that a profile may name."""
    return tuple(
        kind.name for kind in endpoint_kinds().values() if kind.takes_adapter and (kind.in_profiles or not in_profiles)
    )


def continues_replies(interface: str) -> bool:
    """Whether endpoints of this kind continue a reply; False for kinds of older ledgers that no longer exist."""
    kind = endpoint_kinds().get(interface)
    return kind is not None and kind.continues
