"""`nanoflux models plan`: compute which model of a profile goes on which GPU, before anything starts."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from nanoflux_local.cli.common import current_home, print_json, print_table, say, with_json
from nanoflux_local.cli.names import PROFILE
from nanoflux_local.errors import NanofluxError, UsageError
from nanoflux_models.placement import ACTIVATIONS_GIB, ASLEEP_GIB, CUDA_GIB, GRAPHS_GIB, LIMIT, Placement, Server

if TYPE_CHECKING:
    from nanoflux_local.endpoints.managed.launches import Workload


_RESERVED_MEMORY = {
    "limit": LIMIT,
    "cuda_gib": CUDA_GIB,
    "activations_gib": ACTIVATIONS_GIB,
    "graphs_gib": GRAPHS_GIB,
    "asleep_gib": ASLEEP_GIB,
}
"""The share of each GPU's memory that a plan uses, and the GiB that it reserves, for `models plan --json`."""


@click.command("plan")
@click.argument("profile", type=PROFILE)
@click.option("--gpus", default="", help="Memory of each GPU in GiB, e.g. 40,40 [default: as nvidia-smi reports].")
@click.option("--sequences", type=click.IntRange(1), help="Number of concurrent requests [default: the profile's].")
@click.option("--context", type=click.IntRange(1), help="Tokens per request [default: the profile's].")
@with_json
def command(profile: str, gpus: str, sequences: int | None, context: int | None, as_json: bool) -> None:
    """Plan which model of PROFILE goes on which GPU, from the manifests alone; nothing is started."""
    from nanoflux_local.endpoints.managed.launches import plan_servers
    from nanoflux_models.manifest import list_manifests

    workload_by_model = _load_workloads(profile, sequences, context)
    gpu_sizes = _parse_gpu_sizes(gpus)
    manifests = list_manifests(current_home().root)
    weights_gib = {
        manifest.name: manifest.memory.weights_gib
        for manifest in manifests
        if manifest.memory and manifest.kind == "chat"
    }
    other_weights_gib = {name: gib for name, gib in weights_gib.items() if name not in workload_by_model}
    placement = plan_servers(workload_by_model.values(), gpu_sizes, other_weights_gib, fill_gpus=True)
    if as_json:
        workloads = {
            name: {"sequences": workload.sequences, "context": workload.context}
            for name, workload in workload_by_model.items()
        }
        print_json(
            {
                "profile": profile,
                "gpus": gpu_sizes,
                "fits": placement.fits,
                **asdict(placement),
                "asked": workloads,
                "margins": _RESERVED_MEMORY,
            }
        )
    elif placement.fits and not workload_by_model:
        say(f"{profile} places no model on a GPU.")
    elif placement.fits:
        print_plan(placement, workload_by_model)
    if not placement.fits:
        fitting_configurations = "; ".join(placement.would_fit)
        raise NanofluxError(placement.refusal, f"use one of: {fitting_configurations} (--sequences, --context)")


def print_plan(placement: Placement, workload_by_model: "Mapping[str, Workload]") -> None:
    """Print which model goes on which GPU, and how many concurrent requests fit."""
    print_table(
        ("model", "GPUs", "tensor parallel", "utilisation", "weights", "adapters", "KV cache", "overhead", "requests",
         "sleep group"),
        [(server.name, ",".join(map(str, server.gpus)), server.tensor, f"{server.utilisation:.2f}",
          f"{server.weights_gib:.1f}", f"{server.lora_gib:.1f}" if server.lora_gib else "none",
          f"{server.kv_gib:.1f}", f"{server.overhead_gib:.1f}",
          _format_requests(server, workload_by_model[server.name]), server.shares or "none")
         for server in placement.servers],
    )  # fmt: skip
    say(
        f"Sizes in GiB. A server's overhead on each GPU: {CUDA_GIB:g} for CUDA, {ACTIVATIONS_GIB:g} for activations, "
        f"{GRAPHS_GIB:g} for CUDA graphs. {1 - LIMIT:.0%} of each GPU is left to the driver, and {ASLEEP_GIB:g} GiB "
        "to each sleeping server."
    )
    for server in placement.servers:
        workload = workload_by_model[server.name]
        if server.requests < workload.sequences:
            verb = "fits" if server.requests == 1 else "fit"
            say(
                f"{server.name}: {server.requests} of the {workload.sequences} concurrent requests {verb} if each "
                f"needs {workload.context} tokens; vLLM queues the others."
            )
    if placement.ram_gib:
        say(
            f"The servers of a sleep group take turns on their GPUs (vLLM's sleep mode). Their weights also need "
            f"{placement.ram_gib:.1f} GiB of the machine's memory."
        )


def _format_requests(server: Server, workload: "Workload") -> str:
    """How many of the concurrent requests fit, how many there are, and the tokens of each: "3/32 x 16384"."""
    return f"{min(server.requests, workload.sequences)}/{workload.sequences} x {workload.context}"


def _load_workloads(profile: str, sequences: int | None, context: int | None) -> "dict[str, Workload]":
    """The workload of each model that a managed vLLM server runs for the profile's roles, judge panel or solvers.
    Endpoints with the same model share one server.
    """
    from nanoflux_local.config import EndpointConfig, validate_model
    from nanoflux_local.endpoints.build import check_endpoint
    from nanoflux_local.endpoints.managed.launches import CONCURRENCY, collect_workloads
    from nanoflux_local.run.configs import load_profile

    values = load_profile(profile, current_home())
    used_endpoints: list[str] = []
    # A profile may assign other endpoints in domains whose seeds have no programs.
    for table in (values, values.get("without_programs", {})):
        judge = table.get("judge", {})
        used_endpoints += [role["endpoint"] for role in table.get("roles", {}).values()]
        used_endpoints += [*judge.get("panel", ()), *judge.get("solvers", ())]
    endpoints = values.get("endpoints", {})
    configs = []
    for name in dict.fromkeys(used_endpoints):
        if name in endpoints:
            location = f"profile {profile}: endpoints.{name}"
            config = validate_model(EndpointConfig, endpoints[name], location)
            check_endpoint(config, location)
            configs.append(config)
    workload_by_model = collect_workloads(configs, values.get("concurrency", CONCURRENCY), current_home())
    return {
        name: replace(workload, sequences=sequences or workload.sequences, context=context or workload.context)
        for name, workload in workload_by_model.items()
    }


def _detect_gpu_sizes() -> list[float]:
    """Return the memory of this machine's GPUs in GiB, and print a warning about GPUs that do not report their memory.

    Raises:
        UsageError: no GPU reports its memory.
    """
    from nanoflux_models.gpus import list_gpu_gib, survey_gpus

    survey = survey_gpus()
    fix = "pass the memory of each GPU in GiB, e.g. --gpus 40,40"
    if not survey.gpus:
        reason = survey.problem or "nvidia-smi lists no GPU"
        raise UsageError(f"no GPU on this machine: {reason}", fix)
    unreported = "; ".join(
        f"GPU {gpu.index} ({gpu.name}) does not report its memory: {gpu.memory_text}"
        for gpu in survey.gpus_without_memory
    )
    if len(survey.gpus_without_memory) == len(survey.gpus):
        raise UsageError(unreported, fix)
    if unreported:
        say(f"{unreported}. The plan leaves it out; {fix}")
    return list_gpu_gib()


def _parse_gpu_sizes(gpus: str) -> list[float]:
    """The GPU memory sizes in GiB that the option --gpus lists; without the option, those of this machine's GPUs."""
    if not gpus:
        return _detect_gpu_sizes()
    try:
        sizes = [float(part) for part in gpus.split(",")]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < size < 10_000 for size in sizes):
        raise UsageError(f"--gpus {gpus!r} is not a list of sizes in GiB", "write e.g. --gpus 40,40")
    return sizes
