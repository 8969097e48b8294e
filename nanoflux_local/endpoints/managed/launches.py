"""Managed servers for endpoints: the placement of each server on the GPUs, its launch, and the endpoint that asks it.

`models plan`, runs and `models serve` all use this module, so that they place models alike. It starts no server.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nanoflux_local.adapters.rank import read_rank
from nanoflux_local.adapters.store import find_adapter
from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.kinds.base import find_kind
from nanoflux_local.endpoints.managed.fleet import Fleet
from nanoflux_local.endpoints.managed.vllm import VllmEndpoint
from nanoflux_local.errors import ConfigError, NanofluxError, RefusedError
from nanoflux_local.paths import Home
from nanoflux_models.architecture import is_wrapper
from nanoflux_models.chat_template import require_template
from nanoflux_models.gpus import compute_capabilities, list_gpus
from nanoflux_models.interpreter import Interpreter, find_interpreter
from nanoflux_models.launch import CONTEXT as CONTEXT_BESIDE_THOUGHTS
from nanoflux_models.launch import RANK, Launch, Seat
from nanoflux_models.manifest import Manifest, load_manifest
from nanoflux_models.placement import Demand, Placement, Server, kv_gib, place_models
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

SEQUENCES, CONTEXT = 8, 4096
"""Concurrent requests, and tokens of each, for which KV-cache memory is planned by default."""
CONCURRENCY = 8
"""Concurrent requests of a run whose profile does not set it."""
ADAPTER_SHARE = 0.021
"""Buffers for two adapters of rank 16 over the two bytes of each parameter: most for a mixture of experts (gpt-oss-20b,
0.8 GiB), less than half of that for the dense models."""
INVARIANT_FROM = 8.0
"""The lowest compute capability for which vLLM has batch-invariant kernels."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The demands on one served model: concurrent requests, tokens of each, the highest rank of an adapter (0: none),
    and the group in which it takes turns."""

    manifest: Manifest
    sequences: int = SEQUENCES
    context: int = CONTEXT
    rank: int = 0
    shares: str = ""

    @property
    def demand(self) -> Demand:
        """The memory that the server needs.

        Raises:
            ConfigError: the manifest has no [memory], or spans machines.
        """
        memory, parallel = self.manifest.memory, self.manifest.parallel
        if memory is None:
            fix = "add it, with weights_gib and kv_bytes_per_token"
            raise ConfigError(f"the manifest of {self.manifest.name} has no [memory] table", fix)
        if parallel.nodes > 1:
            fix = "see docs/how-to/multi-node.md"
            raise ConfigError(f"{self.manifest.name} spans several machines, and a plan is for one", fix)
        return Demand(
            self.manifest.name,
            memory.weights_gib,
            kv_gib(
                memory.kv_bytes_per_token,
                self.sequences,
                min(self.context, self.manifest.context),
                memory.sliding_bytes_per_token,
                memory.sliding_window,
            ),
            parallel.tensor * parallel.pipeline,
            parallel.data,
            self.sequences,
            ADAPTER_SHARE * 2 * self.manifest.parameters / 2**30 * self.rank / RANK,
            self.shares,
        )

    @property
    def on_cpu(self) -> Seat:
        """The place on a machine without GPUs: memory for few requests, at least one, since all processes share it."""
        if self.manifest.memory is None or self.manifest.parallel.nodes > 1:
            return Seat(sequences=self.sequences)
        few = max(CONTEXT * SEQUENCES // self.context, 1)
        return Seat(kv_gib=replace(self, sequences=min(few, self.sequences)).demand.kv_gib, sequences=self.sequences)


def workloads(endpoints: Iterable[EndpointConfig], concurrency: int, home: Home) -> dict[str, Workload]:
    """The workloads of the endpoints on managed servers, by model; endpoints of the same model share its server.

    Raises:
        ModelsError: there is no such model.
        DataError, NothingMatchedError: an adapter is missing or has no rank.
    """
    by_model: dict[str, Workload] = {}
    for config in endpoints:
        if not find_kind(config.interface).managed:
            continue
        manifest = load_manifest(config.model, home.root)
        rank = choose_rank([find_adapter(home.adapters, config.adapter)]) if config.adapter else 0
        before = by_model.get(config.model, Workload(manifest, 0, 0))
        by_model[config.model] = Workload(
            manifest,
            min(before.sequences + config.capacity, concurrency),
            max(before.context, served_context(config, manifest)),
            max(before.rank, rank),
            before.shares or config.shares,
        )
    return by_model


def served_context(config: EndpointConfig, manifest: Manifest) -> int:
    """The context of an endpoint's server in tokens, reasoning room included."""
    room = config.reasoning_tokens if "reasoning_tokens" in config.model_fields_set else manifest.reasoning_room
    return min(config.context or CONTEXT_BESIDE_THOUGHTS + room, manifest.context)


def _stated_context(config: EndpointConfig) -> int:
    """The context that an endpoint's settings require; 0 if any server of its model will do."""
    return config.context or (CONTEXT_BESIDE_THOUGHTS + room if (room := config.reasoning_tokens) else 0)


def plan_servers(
    models: Iterable[Manifest | Workload],
    gpus: list[float],
    smaller: Mapping[str, float] | None = None,
    sequences: int = SEQUENCES,
    context: int = CONTEXT,
    whole: bool = False,
) -> Placement:
    """Plan which model goes on which GPU. Manifests are planned for `sequences` requests of `context` tokens; `whole`
    distributes all of each GPU.

    Raises:
        ConfigError: a manifest has no [memory], or spans machines.
    """
    demands = [_as_workload(model, sequences, context).demand for model in models]
    return place_models(demands, gpus, smaller, whole)


def _as_workload(model: Manifest | Workload, sequences: int = SEQUENCES, context: int = CONTEXT) -> Workload:
    return model if isinstance(model, Workload) else Workload(model, sequences, context)


def assign_seats(models: Iterable[Manifest | Workload], whole: bool = False) -> dict[str, tuple[Seat, str]]:
    """Place models on this machine's GPUs; return by model its seat and the group in which it takes turns ("": none).

    On a machine without GPUs, and for models over several machines, seats name no GPUs: vLLM then chooses.

    Raises:
        NanofluxError: the models do not fit.
    """
    wanted = {each.manifest.name: each for each in map(_as_workload, models)}
    gpus = list_gpus()
    if not gpus:
        return {name: (each.on_cpu, each.shares) for name, each in wanted.items()}
    here = [each for each in wanted.values() if each.manifest.parallel.nodes == 1]
    result = plan_servers(here, gpus, whole=whole)
    if not result.fits:
        raise NanofluxError(result.refusal, "what would fit: " + "; ".join(result.would_fit))
    placed: dict[str, tuple[Seat, str]] = {
        server.name: (_seat(server, wanted[server.name].sequences), server.shares) for server in result.servers
    }
    return {name: placed.get(name, (Seat(sequences=each.sequences), "")) for name, each in wanted.items()}


def _seat(server: Server, sequences: int) -> Seat:
    return Seat(server.gpus, server.utilisation, server.tensor, server.kv_gib, sequences)


def build_managed(
    endpoints: Mapping[str, EndpointConfig], home: Home, concurrency: int = 0
) -> tuple[dict[str, VllmEndpoint], dict[str, str]]:
    """Build the endpoints on managed servers, by name; also return the group in which each endpoint takes turns ("":
    none).

    At most `concurrency` requests are in flight (0: as many as the endpoints take). A profile's `shares` override those
    of the placement. Endpoints of one model share a server, which takes adapters if one of them has an adapter.

    Raises:
        NanofluxError, ModelsError: there is no vLLM, weights or an adapter are missing, or the models do not fit.
    """
    groups = {name: config.shares for name, config in endpoints.items()}
    chosen = {name: config for name, config in endpoints.items() if find_kind(config.interface).managed}
    if not chosen:
        return {}, groups
    wanted = workloads(chosen.values(), concurrency or sum(each.capacity for each in chosen.values()), home)
    for config in chosen.values():
        if config.adapter:
            require_lora(wanted[config.model].manifest, home)
    stated = {model: max(_stated_context(c) for c in chosen.values() if c.model == model) for model in wanted}
    places, fleet, result = assign_seats(wanted.values(), whole=True), Fleet(home.root), {}
    for name, config in chosen.items():
        seat, group = places[config.model]
        groups[name] = group or groups[name]
        launch = make_launch(config, home, seat, bool(groups[name]), wanted[config.model].rank)
        adapter = find_adapter(home.adapters, config.adapter) if config.adapter else None
        server = fleet.server(replace(launch, context=stated[config.model]))
        result[name] = VllmEndpoint(server, adapter, config.capacity, config.structured, _stated_room(config))
    return result, groups


def _stated_room(config: EndpointConfig) -> int | None:
    """The reasoning tokens of a configuration; None if it leaves them to the model's manifest."""
    return config.reasoning_tokens if "reasoning_tokens" in config.model_fields_set else None


def require_lora(manifest: Manifest, home: Home) -> None:
    """Require that a model's manifest names modules for adapters.

    Raises:
        ConfigError: it names none.
    """
    if manifest.lora is None:
        path = home.root / "models" / f"{manifest.name}.toml"
        fix = f'add [lora] to {path}, with targets = ["q_proj", "v_proj"] or other modules of the model'
        raise ConfigError(f"{manifest.name} takes no adapter: its manifest has no [lora]", fix)


def make_launch(config: EndpointConfig, home: Home, seat: Seat, sleeps: bool, rank: int = 0) -> Launch:
    """The launch of an endpoint's server, with buffers for adapters up to `rank` (0: none).

    Raises:
        RefusedError: batch_invariant is set, and vLLM has no such kernels for this device.
        ModelsError: there is no vLLM, no manifest, no chat template, or the weights are not installed.
    """
    weights = weights_dir(config.model, home.root)
    require_template(config.model, weights)
    manifest, interpreter = load_manifest(config.model, home.root), find_interpreter(config.python)
    if config.batch_invariant:
        _require_batch_invariance(config.model, interpreter)
    return Launch(
        manifest=manifest,
        revision=read_record(weights).revision,
        weights=weights,
        interpreter=interpreter,
        seat=seat,
        context=_stated_context(config),
        rank=rank,
        sleeps=sleeps,
        args=config.args,
        wraps=is_wrapper(weights),
        batch_invariant=config.batch_invariant,
    )


def _require_batch_invariance(model: str, interpreter: Interpreter) -> None:
    """Require that vLLM has batch-invariant kernels for this device; raises RefusedError."""
    fix = f"remove batch_invariant, or serve {model} on GPUs of compute capability {INVARIANT_FROM} or higher (A100)"
    if interpreter.for_cpu:
        raise RefusedError(f"batch_invariant: vLLM {interpreter.vllm} for CPUs has no batch-invariant kernels", fix)
    lowest = min(compute_capabilities(), default=0.0)
    if lowest < INVARIANT_FROM:
        stated = f"a GPU has compute capability {lowest}" if lowest else "no GPU states its compute capability"
        raise RefusedError(f"batch_invariant: {stated}; {INVARIANT_FROM} is needed", fix)


def choose_rank(adapters: Iterable[Path]) -> int:
    """The rank that a server must allow for these adapters: the default, or the next one that vLLM supports."""
    highest = max((read_rank(folder) for folder in adapters), default=RANK)
    return next((rank for rank in (RANK, 32, 64, 128, 256, 512) if rank >= highest), highest)
