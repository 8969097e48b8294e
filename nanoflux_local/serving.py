"""From endpoints of the interface "vllm" to servers: what is planned for each, and the endpoint that asks it.

Used before anything starts (`models plan`), by runs and by `models serve`, so that all three mean the same place on
the same GPUs. Starts nothing by itself.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from nanoflux_local.adapter_hash import CONFIG
from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.fleet import Fleet
from nanoflux_local.endpoints.vllm import VllmEndpoint
from nanoflux_local.errors import ConfigError, DataError, NanofluxError
from nanoflux_local.paths import Home
from nanoflux_local.train.adapters import find_adapter
from nanoflux_models.chat_template import require_template
from nanoflux_models.gpus import found_gpus
from nanoflux_models.interpreter import find_interpreter
from nanoflux_models.launch import CONTEXT as CONTEXT_BESIDE_THOUGHTS
from nanoflux_models.launch import RANK, Launch, Seat
from nanoflux_models.manifest import Manifest, load_manifest
from nanoflux_models.placement import Demand, Plan, kv_gib, plan
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

SEQUENCES, CONTEXT = 8, 4096
"""What room for keys and values is planned for: so many requests at once, of so many tokens each."""


def planned(
    manifests: Iterable[Manifest],
    gpus: list[float],
    smaller: Mapping[str, float] | None = None,
    sequences: int = SEQUENCES,
    context: int = CONTEXT,
) -> Plan:
    """Which model goes on which GPU.

    Raises:
        ConfigError: a manifest does not say what its model needs, or spans machines.
    """
    demands = [_demand(manifest, sequences, context) for manifest in manifests]
    return plan(demands, gpus, smaller)


def _demand(manifest: Manifest, sequences: int, context: int) -> Demand:
    memory, parallel = manifest.memory, manifest.parallel
    if memory is None:
        fix = "state weights_gib and kv_bytes_per_token"
        raise ConfigError(f"the manifest of {manifest.name} has no [memory] table", fix)
    if parallel.nodes > 1:
        raise ConfigError(f"{manifest.name} spans several machines; this plans one", "see docs/multi-node.md")
    cache = kv_gib(memory.kv_bytes_per_token, sequences, min(context, manifest.context))
    return Demand(manifest.name, memory.weights_gib, cache, parallel.tensor * parallel.pipeline, parallel.data)


def seats(manifests: Iterable[Manifest]) -> dict[str, tuple[Seat, str]]:
    """By model, its place on this machine's GPUs and the group that it takes turns in ("" for none).

    Without GPUs, and for models over several machines, a place says nothing: vLLM then takes what it finds.

    Raises:
        NanofluxError: the models do not fit.
    """
    chosen, gpus = list(manifests), found_gpus()
    here = [manifest for manifest in chosen if manifest.parallel.nodes == 1]
    if not gpus:
        cache = {each.name: _demand(each, SEQUENCES, CONTEXT).kv_gib for each in here if each.memory}
        return {manifest.name: (Seat(kv_gib=cache.get(manifest.name, 0.0)), "") for manifest in chosen}
    found = planned(here, gpus)
    if not found.fits:
        raise NanofluxError(found.refusal, "what would fit: " + "; ".join(found.would_fit))
    placed: dict[str, tuple[Seat, str]] = {
        server.name: (Seat(server.gpus, server.utilisation, server.tensor, server.kv_gib), server.shares)
        for server in found.servers
    }
    return {manifest.name: placed.get(manifest.name, (Seat(), "")) for manifest in chosen}


def served(endpoints: Mapping[str, EndpointConfig], home: Home) -> tuple[dict[str, VllmEndpoint], dict[str, str]]:
    """The endpoints on managed servers, by name, and for every endpoint the group that it takes turns in ("" for none).

    A profile's own `shares` hold; where it states none and the plan has to, the plan's do. The same model twice is one
    server.

    Raises:
        NanofluxError, ModelsError: there is no vLLM, weights or an adapter are missing, or the models do not fit.
    """
    groups = {name: config.shares for name, config in endpoints.items()}
    chosen = {name: config for name, config in endpoints.items() if config.interface == "vllm"}
    if not chosen:
        return {}, groups
    manifests = {config.model: load_manifest(config.model, home.root) for config in chosen.values()}
    places, fleet, found = seats(manifests.values()), Fleet(home.root), {}
    adapters = {name: find_adapter(home.adapters, c.adapter) for name, c in chosen.items() if c.adapter}
    for name, config in chosen.items():
        if config.adapter:
            with_lora(manifests[config.model], home)
        seat, group = places[config.model]
        groups[name] = groups[name] or group
        rank = rank_for(folder for other, folder in adapters.items() if chosen[other].model == config.model)
        launch = launch_for(config, home, seat, bool(groups[name]), rank)
        server = fleet.server(launch)
        found[name] = VllmEndpoint(server, adapters.get(name), config.capacity, config.structured, _stated_room(config))
    return found, groups


def _stated_room(config: EndpointConfig) -> int | None:
    """The room for thoughts that an endpoint states; None leaves it to the model's manifest."""
    return config.reasoning_tokens if "reasoning_tokens" in config.model_fields_set else None


def with_lora(manifest: Manifest, home: Home) -> None:
    """Refuse adapters where the model's manifest names no modules for them.

    Raises:
        ConfigError: it names none.
    """
    if manifest.lora is None:
        path = home.root / "models" / f"{manifest.name}.toml"
        fix = f'name the modules in {path}: [lora] and targets = ["q_proj", "v_proj"] or what the model has'
        raise ConfigError(f"{manifest.name} takes no adapter: its manifest has no [lora]", fix)


def launch_for(config: EndpointConfig, home: Home, seat: Seat, sleeps: bool, rank: int = RANK) -> Launch:
    """How the server of an endpoint is started.

    Raises:
        ModelsError: there is no vLLM, no manifest, no chat template, or the weights are not installed.
    """
    weights = weights_dir(config.model, home.root)
    require_template(config.model, weights)
    return Launch(
        manifest=load_manifest(config.model, home.root),
        revision=read_record(weights).revision,
        weights=weights,
        interpreter=find_interpreter(config.python),
        seat=seat,
        context=config.context or (CONTEXT_BESIDE_THOUGHTS + room if (room := config.reasoning_tokens) else 0),
        rank=rank,
        sleeps=sleeps,
        args=config.args,
    )


def rank_for(adapters: Iterable[Path]) -> int:
    """The rank that a server must allow for these adapters: vLLM's usual one, or the next that it knows."""
    highest = max((_rank(folder) for folder in adapters), default=RANK)
    return next((known for known in (RANK, 32, 64, 128, 256, 512) if known >= highest), highest)


def _rank(folder: Path) -> int:
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / CONFIG}: no rank in it: {error}", "this is no adapter of PEFT's format") from error
