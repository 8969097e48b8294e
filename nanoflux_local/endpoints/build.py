"""Builds endpoints and embedders of every kind, and checks each endpoint's settings against the capabilities of its
kind. The module `config` cannot make this check, since it does not know the kinds.
"""

from collections.abc import Mapping

from nanoflux_local.config import ROLES, EndpointConfig, RunConfig, Send
from nanoflux_local.endpoints.base import Embedder, Endpoint
from nanoflux_local.endpoints.kinds.base import find_kind
from nanoflux_local.endpoints.managed.waves import take_turns
from nanoflux_local.endpoints.prices import find_price
from nanoflux_local.errors import ConfigError
from nanoflux_local.paths import Home
from nanoflux_models.errors import ModelNotFoundError
from nanoflux_models.manifest import load_manifest
from nanoflux_models.weights import require_installed


def build_endpoint(name: str, config: EndpointConfig, home: Home) -> Endpoint:
    """Build one endpoint. Its model is loaded, or its server started, when the first request arrives.

    Raises:
        ConfigError: the kind does not exist or has no chat endpoints, or a key or an address is missing.
        ModelsError: weights are not installed.
        NothingMatchedError: no adapter has the configured hash.
    """
    return find_kind(config.interface).build(name, config, home)


def build_endpoints(configs: Mapping[str, EndpointConfig], home: Home, concurrency: int = 0) -> dict[str, Endpoint]:
    """Build a profile's endpoints, by name. Each kind builds all of its endpoints in one call, so that it can divide
    the GPUs among their servers. Endpoints that share a GPU take turns on it.

    Raises:
        ConfigError, ModelsError, NothingMatchedError: as for `build_endpoint`.
    """
    endpoint_by_name: dict[str, Endpoint] = {}
    sleep_group_by_name = {name: config.shares for name, config in configs.items()}
    for interface in sorted({config.interface for config in configs.values()}):
        configs_of_kind = {name: config for name, config in configs.items() if config.interface == interface}
        endpoints_of_kind, groups_of_kind = find_kind(interface).build_together(configs_of_kind, home, concurrency)
        endpoint_by_name |= endpoints_of_kind
        sleep_group_by_name |= groups_of_kind
    endpoints_in_profile_order = {name: endpoint_by_name[name] for name in configs}
    return take_turns(endpoints_in_profile_order, sleep_group_by_name)


def build_embedder(config: EndpointConfig, home: Home) -> Embedder:
    """Build the embedder of a profile.

    Raises:
        ConfigError: the kind does not exist or has no embedders, or a key or an address is missing.
        ModelsError: weights are not installed.
    """
    return find_kind(config.interface).build_embedder(config, home)


def build_model_endpoint(
    model: str,
    adapter: str,
    home: Home,
    interface: str = "in_process",
    args: tuple[str, ...] = (),
    reasoning_tokens: int | None = None,
) -> Endpoint:
    """Build an endpoint for an installed model, with the adapter whose hash is `adapter` ("": without an adapter).

    `interface` is the name of a kind that takes adapters (`list_adapter_kinds`). `args` are passed to vLLM.
    `reasoning_tokens` limits the reasoning of a reply; None uses the limit in the model's manifest.
    """
    reasoning_limit = load_manifest(model, home.root).reasoning_limit if reasoning_tokens is None else reasoning_tokens
    config = EndpointConfig(
        interface=interface, model=model, adapter=adapter, args=args, reasoning_tokens=reasoning_limit
    )
    return build_endpoint(model, config, home)


def check_endpoint(config: EndpointConfig, location: str) -> None:
    """Refuse settings that an endpoint's kind does not support; the message starts with `location`.

    Raises:
        ConfigError: the kind does not exist, or does not support a setting.
    """
    try:
        kind = find_kind(config.interface)
    except ConfigError as error:
        raise ConfigError(f"{location}.{error.message}", error.fix) from None  # the message starts with "interface: "
    if not kind.in_profiles:
        raise ConfigError(
            f"{location}: the interface {kind.name!r} cannot be part of a profile", "choose another interface"
        )
    is_unsupported_by_setting = {
        "batch_invariant": config.batch_invariant and not kind.batch_invariant,
        "structured": config.structured and not kind.structured,
        "send": config.send != Send() and not kind.takes_send,
    }
    for setting, is_unsupported in is_unsupported_by_setting.items():
        if is_unsupported:
            message = f"{location}: {setting}: the interface {kind.name!r} does not support it"
            raise ConfigError(message, f"remove {setting}, or choose another interface")


def check_endpoints(config: RunConfig, location: str) -> None:
    """Refuse a run with an endpoint setting that the endpoint's kind does not support, or with a budget in dollars that
    cannot be enforced because a price is unknown.

    Raises:
        ConfigError: an endpoint's kind does not support a setting, or a price is missing.
    """
    for name, endpoint in config.endpoints.items():
        check_endpoint(endpoint, f"{location}: endpoints.{name}")
    role_budgets = [getattr(config.budget.roles, role) for role in ROLES]
    if all(budget.usd is None for budget in (config.budget, *role_budgets)):
        return
    for name in (*config.role_endpoints, config.embedder):
        if lacks_price(config.endpoints[name]):
            raise ConfigError(
                f"{location}: budget.usd cannot be enforced while endpoints.{name}.price is unknown",
                "set price = { prompt = …, completion = … } in US dollars per million tokens (0 for your own server)",
            )


def require_weights(config: RunConfig, home: Home) -> None:
    """Refuse a run whose local models are not all installed; the error names every missing model.

    Raises:
        ModelsError: weights are not installed, or a model does not exist.
    """
    used_endpoints = [config.endpoints[name] for name in (*config.role_endpoints, config.embedder)]
    local_models = [endpoint.model for endpoint in used_endpoints if find_kind(endpoint.interface).local]
    require_installed(local_models, home.root)


def lacks_price(config: EndpointConfig) -> bool:
    """Whether the server may charge for requests although the configuration states no price."""
    return config.price is None and find_kind(config.interface).charges


def complete_endpoint(config: EndpointConfig, home: Home) -> EndpointConfig:
    """Fill in the listed price and the model's reasoning limit, each only if the configuration does not set it."""
    price = find_price(config, home.root) if lacks_price(config) else config.price
    return config.model_copy(update={"price": price, "reasoning_tokens": find_reasoning_limit(config, home)})


def find_reasoning_limit(config: EndpointConfig, home: Home) -> int:
    """The limit on a reply's reasoning tokens: the configuration's, else that of the model's manifest."""
    if "reasoning_tokens" in config.model_fields_set:
        return config.reasoning_tokens
    return find_manifest_reasoning_limit(config, home)


def find_manifest_reasoning_limit(config: EndpointConfig, home: Home) -> int:
    """The limit on a reply's reasoning tokens in the model's manifest; 0 for models on other machines."""
    if not find_kind(config.interface).local:
        return 0
    try:
        return load_manifest(config.model, home.root).reasoning_limit
    except ModelNotFoundError:  # reported when the endpoint is built
        return 0
