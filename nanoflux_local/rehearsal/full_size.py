"""A rehearsal at full size with random weights: measures whether a profile's models fit this machine's GPUs, and how
fast they are.

vLLM draws the weights itself (`--load-format dummy`), so none need to be installed. Memory, start time and speed are
those of the real models, but the replies are meaningless. A machine without a GPU is refused.
"""

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from nanoflux_local.config import EndpointConfig, RunConfig
from nanoflux_local.endpoints.managed.launches import Workload, assign_resources, collect_workloads, plan_servers
from nanoflux_local.errors import ConfigError, NanofluxError, RefusedError
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.rehearsal.environment import (
    LEAN_ARGS,
    RehearsalEnvironment,
    list_managed_endpoints,
    override_embedder,
)
from nanoflux_local.rehearsal.steps import RehearsalReport, StepSkipped
from nanoflux_local.run.configs import resolve
from nanoflux_models.gpus import list_gpu_gib, query_gpus
from nanoflux_models.launch import Launch, ServerResources
from nanoflux_models.manifest import Manifest, load_manifest
from nanoflux_models.record import WeightsRecord, compute_revision, record_files, write_record
from nanoflux_models.server_client import ServerClient
from nanoflux_models.stand_ins import find_family, write_without_weights

DUMMY_WEIGHTS = ("--load-format", "dummy")
"""Arguments that make vLLM draw random weights instead of reading a model's weights."""


@dataclass(frozen=True, slots=True)
class RequestLoad:
    """The size of each request that is sent to a server, in tokens of its prompt and of its completion.

    With `tiny`, models of a stand-in's size are served on a machine without GPUs: the steps are the same, but the
    measurements are meaningless.
    """

    prompt_tokens: int = 512
    completion_tokens: int = 256
    tiny: bool = False


def rehearse_all_at_full_size(
    user_home: Home, reports: Sequence[RehearsalReport], load: RequestLoad | None = None
) -> None:
    """Rehearse several profiles at full size, one after another, each in a scratch home.

    Raises:
        RefusedError: this machine has no GPU.
    """
    load = load or RequestLoad()
    if not list_gpu_gib() and not load.tiny:
        fix = "use a machine whose nvidia-smi lists a GPU, or omit --full-size to rehearse stand-ins on a CPU"
        raise RefusedError("a rehearsal at full size needs a GPU, and this machine has none", fix)
    for report in reports:
        environment = RehearsalEnvironment(user_home)
        try:
            _measure(report.profile, environment, report, load)
        finally:
            environment.clear()


def _measure(profile: str, environment: RehearsalEnvironment, report: RehearsalReport, load: RequestLoad) -> None:
    """Plan the profile's models, then measure them one after another."""
    configs: list[RunConfig] = []  # one configuration, once `configure` has run

    def configure() -> str:
        configs.append(resolve("starter", profile, override_embedder(), environment.home))
        models = format_quantity(len(list_managed_endpoints(configs[0])), "model")
        return f"{models}, {format_quantity(configs[0].concurrency, 'concurrent turn')}"

    if not report.perform("profile", "", configure):
        return
    config = configs[0]
    managed = list_managed_endpoints(config)
    workloads = list(collect_workloads(managed.values(), config.concurrency, environment.home).values())
    if not report.perform("plan", "", lambda: _plan(workloads, load)):
        return
    resources_by_model = assign_resources(workloads, fill_gpus=True) if workloads else {}
    for model, endpoint in managed.items():
        _measure_model(endpoint, resources_by_model[model], config.concurrency, environment, report, load)
    report.perform("stop", "", environment.stop_and_describe)


def _plan(workloads: Sequence[Workload], load: RequestLoad) -> str:
    """Place the models of the workloads on this machine's GPUs. Raises NanofluxError if they do not fit."""
    if not workloads:
        raise StepSkipped("this profile serves no model on this machine")
    if load.tiny:
        return f"{format_quantity(len(workloads), 'model')} of a stand-in's size, on a CPU"
    placement = plan_servers(workloads, list_gpu_gib(), fill_gpus=True)
    if not placement.fits:
        raise NanofluxError(placement.refusal, "use one of: " + "; ".join(placement.would_fit))
    descriptions = []
    for server in placement.servers:
        gpus = ",".join(map(str, server.gpus))
        descriptions.append(f"{server.name} on GPU {gpus} at {server.utilisation:.0%}")
    return "; ".join(descriptions)


def _measure_model(
    endpoint: EndpointConfig,
    resources_and_sleep_group: tuple[ServerResources, str],
    concurrency: int,
    environment: RehearsalEnvironment,
    report: RehearsalReport,
    load: RequestLoad,
) -> None:
    """Measure the start, memory, speed and wake-up of one model. A model in a sleep group (the second part of
    `resources_and_sleep_group`, "" for none) sleeps afterwards.
    """
    launches: list[Launch] = []  # one launch, once `start` has run
    model = endpoint.model
    used_gib_before = _read_used_gib()

    def start() -> str:
        launches.append(_make_launch(endpoint, resources_and_sleep_group, environment, load))
        start_time = time.monotonic()
        environment.serve(launches[0])
        client = ServerClient(environment.servers[model].url)
        _complete(client, model, prompt_ids=[1] * 8, token_count=1)
        return f"answered {time.monotonic() - start_time:.0f} s after its start"

    if not report.perform("serve", model, start):
        return
    report.perform("memory", model, lambda: _compare_memory(launches[0], used_gib_before))
    report.perform("throughput", model, lambda: _measure_throughput(model, concurrency, environment, load))
    report.perform("sleep and wake", model, lambda: _measure_wake_up(launches[0], environment))


def _make_launch(
    endpoint: EndpointConfig,
    resources_and_sleep_group: tuple[ServerResources, str],
    environment: RehearsalEnvironment,
    load: RequestLoad,
) -> Launch:
    """Install the model without weights, and build the launch of its server with random weights."""
    _install_without_weights(load_manifest(endpoint.model, environment.home.root), environment, load)
    environment.prepare_interpreter()
    args = (*endpoint.args, *DUMMY_WEIGHTS, *(LEAN_ARGS if load.tiny else ()))
    launch = environment.make_launch(
        endpoint.model_copy(update={"args": args}), resources_and_sleep_group, accepts_adapters=False
    )
    return replace(launch, context=1024, sleeps=False) if load.tiny else launch


def _install_without_weights(manifest: Manifest, environment: RehearsalEnvironment, load: RequestLoad) -> None:
    """Install the model's tokenizer and configuration without weights, with the record that a launch reads."""
    family = find_family(manifest.architecture, manifest.name)
    folder = environment.home.root / "weights" / manifest.name
    if load.tiny:
        family = replace(family, full_configs={manifest.name: family.tiny_config})
    write_without_weights(family, folder, manifest.name)
    files = record_files(folder)
    record = WeightsRecord(
        name=manifest.name,
        kind=manifest.kind,
        licence=manifest.licence,
        source={"kind": "file"},
        files=files,
        revision=compute_revision(files),
    )
    write_record(folder, record)


def _read_used_gib() -> list[float]:
    """The GiB in use on each GPU; [] on a machine without a GPU.

    Raises:
        ConfigError: nvidia-smi does not report the memory in use.
    """
    nvidia_smi = shutil.which("nvidia-smi")
    if not nvidia_smi or not list_gpu_gib():
        return []
    lines, problem = query_gpus(nvidia_smi, "memory.used")  # in MiB
    try:
        return [float(line) / 1024 for line in lines]
    except ValueError as error:
        message = f"nvidia-smi does not report the memory in use: {problem or lines}"
        raise ConfigError(message, "run nvidia-smi to see the state of the GPUs") from error


def _compare_memory(launch: Launch, used_gib_before: Sequence[float]) -> str:
    """Compare the memory that the server uses on its GPUs with its planned share.

    Raises:
        NanofluxError: the server uses more than its share of a GPU.
    """
    gpu_gib = list_gpu_gib()
    used_gib_now = _read_used_gib()
    if not used_gib_now:
        raise StepSkipped("this machine has no GPU")
    gpus = launch.resources.gpus or range(len(used_gib_now))
    server_gib = {gpu: used_gib_now[gpu] - used_gib_before[gpu] for gpu in gpus}
    share = launch.resources.utilisation
    planned_gib = {gpu: share * gpu_gib[gpu] for gpu in gpus}
    comparison = "; ".join(f"GPU {gpu}: {server_gib[gpu]:.1f} GiB of {planned_gib[gpu]:.1f} planned" for gpu in gpus)
    if share and any(server_gib[gpu] > planned_gib[gpu] for gpu in gpus):
        raise NanofluxError(
            f"the server uses more memory than planned: {comparison}", "set a smaller share, or a shorter context"
        )
    return comparison


def _measure_throughput(model: str, concurrency: int, environment: RehearsalEnvironment, load: RequestLoad) -> str:
    """Measure the tokens per second at the profile's concurrency. Every prompt differs, so that none is cached."""
    client = ServerClient(environment.servers[model].url)
    prompts = [_make_prompt(number, load.prompt_tokens) for number in range(concurrency)]
    start_time = time.monotonic()
    with ThreadPoolExecutor(concurrency) as pool:
        completion_tokens = sum(pool.map(lambda ids: _complete(client, model, ids, load.completion_tokens), prompts))
    seconds = time.monotonic() - start_time
    requests = format_quantity(concurrency, "concurrent request")
    return (
        f"{completion_tokens / seconds:.0f} completion tokens/s over {requests} of "
        f"{load.prompt_tokens} prompt and {load.completion_tokens} completion tokens, in {seconds:.1f} s"
    )


def _make_prompt(number: int, length: int) -> list[int]:
    """A prompt of `length` arbitrary token ids, which differs for each `number`."""
    return [7 + (number * 31 + index) % 997 for index in range(length)]


def _complete(client: ServerClient, model: str, prompt_ids: list[int], token_count: int) -> int:
    """Request a completion of exactly `token_count` tokens; return the number of tokens that the server reports."""
    body = {"model": model, "prompt": prompt_ids, "max_tokens": token_count, "temperature": 0.0, "ignore_eos": True}
    return int(client.complete(body)["usage"]["completion_tokens"])


def _measure_wake_up(launch: Launch, environment: RehearsalEnvironment) -> str:
    """Measure how long the model takes to wake up. Afterwards it sleeps again, so that the next model has the GPU."""
    if not launch.sleeps:
        has_gpu = bool(list_gpu_gib())
        raise StepSkipped("the model shares its GPU with no other" if has_gpu else "vLLM's sleep mode needs a GPU")
    client = ServerClient(environment.servers[launch.model].url)
    client.sleep()
    start_time = time.monotonic()
    client.wake()
    seconds = time.monotonic() - start_time
    client.sleep()
    return f"wakes in {seconds:.1f} s"
