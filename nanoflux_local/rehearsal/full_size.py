"""A profile at its true size, with random weights: whether its models fit this machine's GPUs, and how fast they are.

vLLM draws the weights itself (`--load-format dummy`), so that nothing is carried in; memory, start and speed are those
of the real model, and what it says means nothing. Owns the measuring; refuses machines without a GPU.
"""

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from nanoflux_local.config import EndpointConfig, RunConfig
from nanoflux_local.endpoints.kinds.base import find_kind
from nanoflux_local.endpoints.managed.launches import Workload, plan_servers, seats, workloads
from nanoflux_local.errors import ConfigError, NanofluxError, RefusedError
from nanoflux_local.paths import Home
from nanoflux_local.rehearsal.stage import LEAN, Stage
from nanoflux_local.rehearsal.steps import Report, StepSkipped
from nanoflux_local.run.configs import resolve
from nanoflux_models.control import Control
from nanoflux_models.gpus import found_gpus, query_gpus
from nanoflux_models.launch import Launch, Seat
from nanoflux_models.manifest import Manifest, load_manifest
from nanoflux_models.record import WeightsRecord, record_files, revision_of, write_record
from nanoflux_models.stand_ins import FAMILIES, family_of, write_form

DUMMY = ("--load-format", "dummy")


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of each server: so many tokens read and written by each of the requests at once.

    `tiny` serves stand-in sizes, for a machine without GPUs: the same walk, and figures that mean nothing.
    """

    prompt_tokens: int = 512
    reply_tokens: int = 256
    tiny: bool = False


def measure_all(user: Home, reports: Sequence[Report], load: Load | None = None) -> None:
    """Measure several profiles, one after another, in a scratch home.

    Raises:
        RefusedError: there is no GPU here.
    """
    load = load or Load()
    if not found_gpus() and not load.tiny:
        fix = "run it where nvidia-smi lists a GPU, or leave --full-size out: stand-ins are rehearsed on a CPU too"
        raise RefusedError("a rehearsal at full size needs a GPU, and none was found here", fix)
    for report in reports:
        stage = Stage(user)
        try:
            _measure(report.profile, stage, report, load)
        finally:
            stage.clear()


def _measure(profile: str, stage: Stage, report: Report, load: Load) -> None:
    configs: list[RunConfig] = []

    def configure() -> str:
        configs.append(resolve("starter", profile, _scripted_embedder(), stage.home))
        return f"{len(_managed(configs[0]))} models at {configs[0].concurrency} turns at once"

    if not report.perform("profile", "", configure):
        return
    config = configs[0]
    managed = _managed(config)
    models = list(workloads(managed.values(), config.concurrency, stage.home).values())
    if not report.perform("plan", "", lambda: _plan(models, load)):
        return
    places = seats(models, whole=True) if models else {}
    for model, endpoint in managed.items():
        _measure_model(endpoint, places[model], config.concurrency, stage, report, load)
    report.perform("stop", "", lambda: f"{stage.stop()} servers ended, nothing is left of them")


def _scripted_embedder() -> dict[str, object]:
    hashing = {"interface": "scripted", "model": "hashing-embedder"}
    return {"endpoints": {"rehearsal-embedder": hashing}, "embedder": "rehearsal-embedder"}


def _managed(config: RunConfig) -> dict[str, EndpointConfig]:
    chosen = [config.endpoints[name] for name in config.players]
    return {endpoint.model: endpoint for endpoint in chosen if find_kind(endpoint.interface).managed}


def _plan(models: Sequence[Workload], load: Load) -> str:
    if not models:
        raise StepSkipped("no model of this profile is served here")
    if load.tiny:
        return f"{len(models)} models at stand-in size, on a CPU"
    plan = plan_servers(models, found_gpus(), whole=True)
    if not plan.fits:
        raise NanofluxError(plan.refusal, "what would fit: " + "; ".join(plan.would_fit))
    return "; ".join(f"{s.name} on GPU {','.join(map(str, s.gpus))} at {s.utilisation:.0%}" for s in plan.servers)


def _measure_model(
    endpoint: EndpointConfig, place: tuple[Seat, str], requests: int, stage: Stage, report: Report, load: Load
) -> None:
    """Start, memory, speed, and the wake from sleep of one model; it sleeps afterwards where it shares its GPU."""
    launches: list[Launch] = []
    model, before = endpoint.model, _used_gib()

    def start() -> str:
        launches.append(_launch(endpoint, place, stage, load))
        began = time.monotonic()
        stage.serve(launches[0])
        _ask(Control(stage.servers[model].url), model, [1] * 8, 1)
        return f"answers {time.monotonic() - began:.0f} s after its start"

    if not report.perform("serve", model, start):
        return
    report.perform("memory", model, lambda: _memory(launches[0], before))
    report.perform("throughput", model, lambda: _throughput(model, requests, stage, load))
    report.perform("sleep and wake", model, lambda: _wake(launches[0], stage))


def _launch(endpoint: EndpointConfig, place: tuple[Seat, str], stage: Stage, load: Load) -> Launch:
    _install_form(load_manifest(endpoint.model, stage.home.root), stage, load)
    stage.interpreter()
    args = (*endpoint.args, *DUMMY, *(LEAN if load.tiny else ()))
    launch = stage.launch(endpoint.model_copy(update={"args": args}), place, adapts=False)
    return replace(launch, context=1024, sleeps=False) if load.tiny else launch


def _install_form(manifest: Manifest, stage: Stage, load: Load) -> None:
    """The model's folder without weights, under its name, with the record that a launch reads."""
    family = family_of(manifest.architecture, manifest.name)
    folder = stage.home.root / "weights" / manifest.name
    if load.tiny:
        family = replace(family, full={manifest.name: FAMILIES[manifest.architecture].tiny})
    write_form(family, folder, manifest.name)
    files = record_files(folder)
    write_record(
        folder,
        WeightsRecord(
            name=manifest.name,
            kind=manifest.kind,
            licence=manifest.licence,
            source={"kind": "file"},
            files=files,
            revision=revision_of(files),
        ),
    )


def _used_gib() -> list[float]:
    """GiB in use on each GPU; [] without one.

    Raises:
        ConfigError: nvidia-smi does not say.
    """
    smi = shutil.which("nvidia-smi")
    lines, problem = query_gpus(smi, "memory.used") if smi and found_gpus() else ([], "")
    try:
        return [float(line) / 1024 for line in lines]
    except ValueError as error:
        raise ConfigError(f"nvidia-smi does not state the memory in use: {problem or lines}", "see its help") from error


def _memory(launch: Launch, before: Sequence[float]) -> str:
    """What the server took of its GPUs against its planned share."""
    gpus, now = found_gpus(), _used_gib()
    if not now:
        raise StepSkipped("no GPU, whose memory could be read")
    taken = {gpu: now[gpu] - before[gpu] for gpu in launch.seat.gpus or range(len(now))}
    share = launch.seat.utilisation
    figures = "; ".join(f"GPU {gpu}: {gib:.1f} GiB of {share * gpus[gpu]:.1f} planned" for gpu, gib in taken.items())
    if any(share and gib > share * gpus[gpu] for gpu, gib in taken.items()):
        raise NanofluxError(f"more than planned: {figures}", "give it a smaller share, or a shorter context")
    return figures


def _throughput(model: str, requests: int, stage: Stage, load: Load) -> str:
    """Tokens a second at the profile's concurrency; each request reads other tokens, so that none is cached."""
    control = Control(stage.servers[model].url)
    prompts = [[7 + (number * 31 + place) % 997 for place in range(load.prompt_tokens)] for number in range(requests)]
    began = time.monotonic()
    with ThreadPoolExecutor(requests) as pool:
        written = sum(pool.map(lambda ids: _ask(control, model, ids, load.reply_tokens), prompts))
    seconds = time.monotonic() - began
    return (
        f"{written / seconds:.0f} tokens/s written by {requests} requests at once, each {load.prompt_tokens} read and "
        f"{load.reply_tokens} written, in {seconds:.1f} s"
    )


def _ask(control: Control, model: str, ids: list[int], tokens: int) -> int:
    body = {"model": model, "prompt": ids, "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
    return int(control.complete(body)["usage"]["completion_tokens"])


def _wake(launch: Launch, stage: Stage) -> str:
    """Seconds to wake; afterwards it sleeps again, so that its neighbour has the GPU."""
    if not launch.sleeps:
        raise StepSkipped("it takes turns with no other model" if found_gpus() else "vLLM's sleep mode needs a GPU")
    control = Control(stage.servers[launch.model].url)
    control.sleep()
    began = time.monotonic()
    control.wake()
    seconds = time.monotonic() - began
    control.sleep()
    return f"wakes in {seconds:.1f} s"
