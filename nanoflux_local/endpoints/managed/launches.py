"""Plans managed servers: assigns each server its GPUs and memory (its `ServerResources`), prepares its start (a
`Launch`), and builds the endpoints that use it.

`models plan`, runs and `models serve` all use this module, so that they place models in the same way. The module starts
no server.
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
from nanoflux_models.gpus import list_compute_capabilities, list_gpu_gib
from nanoflux_models.interpreter import Interpreter, find_interpreter
from nanoflux_models.launch import DEFAULT_CONTEXT as CONTEXT_WITHOUT_REASONING
from nanoflux_models.launch import DEFAULT_RANK, Launch, ServerResources
from nanoflux_models.manifest import Manifest, load_manifest
from nanoflux_models.placement import Demand, Placement, Server, compute_kv_gib, place_models
from nanoflux_models.record import read_record
from nanoflux_models.weights import weights_dir

SEQUENCES = 8
"""The number of concurrent requests for which KV-cache memory is planned by default."""
CONTEXT = 4096
"""The number of tokens for which each of these requests is planned by default, reply included."""
CONCURRENCY = 8
"""The number of concurrent requests of a run whose profile does not set it."""
ADAPTER_SHARE = 0.021
"""The size of the buffers for two adapters of rank 16, as a share of the model's size in bfloat16. Measured for a
mixture of experts (gpt-oss-20b, 0.8 GiB), which needs the largest share; dense models need less than half of it.
"""
SUPPORTED_RANKS = (DEFAULT_RANK, 32, 64, 128, 256, 512)
"""The ranks with which a vLLM server can be started, from the default upwards."""
MIN_CAPABILITY = 8.0
"""The lowest compute capability for which vLLM has batch-invariant kernels."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What the server of one model must handle: the number of concurrent requests (`sequences`), the tokens of each
    request (`context`), the highest rank of its adapters (0: none), and the group in which it takes turns on a GPU
    (`shares`).
    """

    manifest: Manifest
    sequences: int = SEQUENCES
    context: int = CONTEXT
    rank: int = 0
    shares: str = ""

    @property
    def demand(self) -> Demand:
        """The memory that the server needs.

        Raises:
            ConfigError: the manifest has no [memory], or its model spans several machines.
        """
        memory, parallel = self.manifest.memory, self.manifest.parallel
        if memory is None:
            fix = "add the table, with weights_gib and kv_bytes_per_token"
            raise ConfigError(f"the manifest of {self.manifest.name} has no [memory] table", fix)
        if parallel.nodes > 1:
            fix = "see docs/how-to/multi-node.md"
            raise ConfigError(f"{self.manifest.name} spans several machines, but a plan covers one machine", fix)
        kv_gib = compute_kv_gib(
            memory.kv_bytes_per_token,
            self.sequences,
            min(self.context, self.manifest.context),
            memory.sliding_bytes_per_token,
            memory.sliding_window,
        )
        bfloat16_gib = 2 * self.manifest.parameters / 2**30
        return Demand(
            self.manifest.name,
            memory.weights_gib,
            kv_gib,
            width=parallel.tensor * parallel.pipeline,
            copies=parallel.data,
            sequences=self.sequences,
            lora_gib=ADAPTER_SHARE * bfloat16_gib * self.rank / DEFAULT_RANK,
            shares=self.shares,
        )

    @property
    def cpu_resources(self) -> ServerResources:
        """The resources on a machine without GPUs. All processes share the machine's memory, so the server gets memory
        for about as many tokens as the default workload has, but for at least one request.
        """
        if self.manifest.memory is None or self.manifest.parallel.nodes > 1:
            return ServerResources(sequences=self.sequences)
        planned_sequences = min(max(CONTEXT * SEQUENCES // self.context, 1), self.sequences)
        planned_workload = replace(self, sequences=planned_sequences)
        return ServerResources(kv_gib=planned_workload.demand.kv_gib, sequences=self.sequences)


def collect_workloads(endpoints: Iterable[EndpointConfig], concurrency: int, home: Home) -> dict[str, Workload]:
    """The workloads of the endpoints on managed servers, by model; endpoints of the same model share one server.

    Raises:
        ModelsError: a model does not exist.
        DataError, NothingMatchedError: an adapter is missing or has no rank.
    """
    workload_by_model: dict[str, Workload] = {}
    for config in endpoints:
        if not find_kind(config.interface).managed:
            continue
        manifest = load_manifest(config.model, home.root)
        rank = choose_rank([find_adapter(home.adapters, config.adapter)]) if config.adapter else 0
        workload_so_far = workload_by_model.get(config.model, Workload(manifest, sequences=0, context=0))
        workload_by_model[config.model] = Workload(
            manifest,
            sequences=min(workload_so_far.sequences + config.capacity, concurrency),
            context=max(workload_so_far.context, compute_served_context(config, manifest)),
            rank=max(workload_so_far.rank, rank),
            shares=workload_so_far.shares or config.shares,
        )
    return workload_by_model


def compute_served_context(config: EndpointConfig, manifest: Manifest) -> int:
    """The context of an endpoint's server in tokens, including the tokens for reasoning."""
    stated_reasoning = _stated_reasoning(config)
    reasoning_tokens = manifest.reasoning_limit if stated_reasoning is None else stated_reasoning
    context = config.context or (CONTEXT_WITHOUT_REASONING + reasoning_tokens)
    return min(context, manifest.context)


def _required_context(config: EndpointConfig) -> int:
    """The context that an endpoint's settings require; 0 if any server of the endpoint's model suffices."""
    if config.context or not config.reasoning_tokens:
        return config.context
    return CONTEXT_WITHOUT_REASONING + config.reasoning_tokens


def plan_servers(
    models: Iterable[Manifest | Workload],
    gpus: list[float],
    smaller_models: Mapping[str, float] | None = None,
    sequences: int = SEQUENCES,
    context: int = CONTEXT,
    fill_gpus: bool = False,
) -> Placement:
    """Plan which model runs on which GPU. A model passed as a manifest is planned for `sequences` requests of `context`
    tokens. If the models do not fit, the refusal may suggest one of `smaller_models`, which holds the GiB of weights by
    model name. With `fill_gpus`, the servers share all memory of each GPU, even if they need less.

    Raises:
        ConfigError: a manifest has no [memory], or its model spans several machines.
    """
    demands = [_as_workload(model, sequences, context).demand for model in models]
    return place_models(demands, gpus, smaller_models, fill_gpus)


def _as_workload(model: Manifest | Workload, sequences: int = SEQUENCES, context: int = CONTEXT) -> Workload:
    """The workload itself, or the workload of `sequences` requests of `context` tokens to a manifest's model."""
    return model if isinstance(model, Workload) else Workload(model, sequences, context)


def assign_resources(
    models: Iterable[Manifest | Workload], fill_gpus: bool = False
) -> dict[str, tuple[ServerResources, str]]:
    """Place models on this machine's GPUs; return each model's resources and its sleep group ("" for none).

    On a machine without GPUs, and for models that span several machines, the resources name no GPUs: vLLM chooses them.

    Raises:
        NanofluxError: the models do not fit.
    """
    workload_by_name = {workload.manifest.name: workload for workload in map(_as_workload, models)}
    gpus = list_gpu_gib()
    if not gpus:
        return {name: (workload.cpu_resources, workload.shares) for name, workload in workload_by_name.items()}
    single_machine_workloads = [
        workload for workload in workload_by_name.values() if workload.manifest.parallel.nodes == 1
    ]
    placement = plan_servers(single_machine_workloads, gpus, fill_gpus=fill_gpus)
    if not placement.fits:
        raise NanofluxError(placement.refusal, "use one of: " + "; ".join(placement.would_fit))
    resources_by_model: dict[str, tuple[ServerResources, str]] = {
        server.name: (_make_resources(server, workload_by_name[server.name].sequences), server.shares)
        for server in placement.servers
    }
    return {
        name: resources_by_model.get(name, (ServerResources(sequences=workload.sequences), ""))
        for name, workload in workload_by_name.items()
    }


def _make_resources(server: Server, sequences: int) -> ServerResources:
    return ServerResources(server.gpus, server.utilisation, server.tensor, server.kv_gib, sequences)


def build_managed(
    endpoints: Mapping[str, EndpointConfig], home: Home, concurrency: int = 0
) -> tuple[dict[str, VllmEndpoint], dict[str, str]]:
    """Build the endpoints on managed servers. Returns two dictionaries by endpoint name: the endpoints, and the group
    in which each takes turns on a GPU ("": none).

    At most `concurrency` requests are in flight (0: as many as the endpoints' capacities allow). An endpoint's sleep
    group is the one that the placement requires; if it requires none, the one that the profile sets as `shares`.
    Endpoints of one model share a server, which takes adapters if one of the endpoints has an adapter.

    Raises:
        NanofluxError, ModelsError: there is no vLLM, weights or an adapter are missing, or the models do not fit.
    """
    sleep_group_by_name = {name: config.shares for name, config in endpoints.items()}
    managed_configs = {name: config for name, config in endpoints.items() if find_kind(config.interface).managed}
    if not managed_configs:
        return {}, sleep_group_by_name
    concurrency = concurrency or sum(config.capacity for config in managed_configs.values())
    workload_by_model = collect_workloads(managed_configs.values(), concurrency, home)
    for config in managed_configs.values():
        if config.adapter:
            require_lora(workload_by_model[config.model].manifest, home)
    context_by_model = {
        model: max(_required_context(config) for config in managed_configs.values() if config.model == model)
        for model in workload_by_model
    }
    resources_and_sleep_group_by_model = assign_resources(workload_by_model.values(), fill_gpus=True)
    fleet = Fleet(home.root)
    endpoint_by_name = {}
    for name, config in managed_configs.items():
        resources, sleep_group = resources_and_sleep_group_by_model[config.model]
        sleep_group_by_name[name] = sleep_group or config.shares
        rank = workload_by_model[config.model].rank
        launch = make_launch(config, home, resources, sleeps=bool(sleep_group_by_name[name]), rank=rank)
        adapter = find_adapter(home.adapters, config.adapter) if config.adapter else None
        server = fleet.server(replace(launch, context=context_by_model[config.model]))
        endpoint_by_name[name] = VllmEndpoint(
            server, adapter, config.capacity, config.structured, _stated_reasoning(config)
        )
    return endpoint_by_name, sleep_group_by_name


def _stated_reasoning(config: EndpointConfig) -> int | None:
    """The reasoning tokens that a configuration states; None if it leaves them to the model's manifest."""
    return config.reasoning_tokens if "reasoning_tokens" in config.model_fields_set else None


def require_lora(manifest: Manifest, home: Home) -> None:
    """Refuse a model whose manifest does not name the modules that adapters change.

    Raises:
        ConfigError: the manifest has no [lora] table.
    """
    if manifest.lora is None:
        path = home.root / "models" / f"{manifest.name}.toml"
        fix = f'add [lora] to {path}, with targets = ["q_proj", "v_proj"] or other modules of the model'
        raise ConfigError(f"{manifest.name} takes no adapter: its manifest has no [lora]", fix)


def make_launch(config: EndpointConfig, home: Home, resources: ServerResources, sleeps: bool, rank: int = 0) -> Launch:
    """Make the launch of an endpoint's server, with buffers for adapters of at most this `rank` (0: no adapters).

    Raises:
        RefusedError: batch_invariant is set, but vLLM has no batch-invariant kernels for this device.
        ModelsError: vLLM, the manifest, the chat template or the weights are missing.
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
        resources=resources,
        context=_required_context(config),
        rank=rank,
        sleeps=sleeps,
        args=config.args,
        is_wrapper=is_wrapper(weights),
        batch_invariant=config.batch_invariant,
    )


def _require_batch_invariance(model: str, interpreter: Interpreter) -> None:
    """Raise RefusedError if vLLM has no batch-invariant kernels for this device."""
    fix = f"remove batch_invariant, or serve {model} on GPUs of compute capability {MIN_CAPABILITY} or higher (A100)"
    if interpreter.serves_on_cpu:
        raise RefusedError(f"batch_invariant: vLLM {interpreter.vllm} for CPUs has no batch-invariant kernels", fix)
    capability = min(list_compute_capabilities(), default=0.0)
    if capability < MIN_CAPABILITY:
        problem = f"a GPU has compute capability {capability}" if capability else "no GPU states its compute capability"
        raise RefusedError(f"batch_invariant: {problem}; {MIN_CAPABILITY} is needed", fix)


def choose_rank(adapters: Iterable[Path]) -> int:
    """The maximum LoRA rank with which a server must be started to load these adapters: the lowest rank that vLLM
    supports and that is below neither the default nor the rank of any adapter.
    """
    highest_rank = max((read_rank(folder) for folder in adapters), default=DEFAULT_RANK)
    sufficient_ranks = [rank for rank in SUPPORTED_RANKS if rank >= highest_rank]
    return sufficient_ranks[0] if sufficient_ranks else highest_rank
