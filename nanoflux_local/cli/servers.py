"""`nanoflux models serve / ps / logs / stop / probe`: managed vLLM servers that outlive the command."""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import home, plain, print_json, print_table, say, with_json
from nanoflux_local.errors import NothingMatchedError, RefusedError, UsageError
from nanoflux_local.paths import Home
from nanoflux_models.server_record import ServerRecord
from nanoflux_models.supervisor import Supervisor

if TYPE_CHECKING:
    from nanoflux_local.config import EndpointConfig
    from nanoflux_models.manifest import Manifest
    from nanoflux_models.probe_record import Probe

FOLLOW_S = 0.3


def _supervisor(place: Home) -> Supervisor:
    """The servers of this home; what a crash left is ended first."""
    supervisor = Supervisor(place.root)
    for swept in supervisor.sweep():
        say(f"ended what was left of the server {swept.name}")
    return supervisor


@click.command()
@click.argument("name")
@click.option("--adapter", "adapters", multiple=True, help="An adapter to load and prove; may be given several times.")
@click.option(
    "--lora/--no-lora",
    default=None,
    help="Whether adapters can be loaded later [default: yes, except for mixtures of experts].",
)
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="[default: any that is free]")
@click.option(
    "--gpu-memory", default=0.0, type=click.FloatRange(0, 1), help="The share of each GPU [default: planned]."
)
@click.option(
    "--context", default=0, type=click.IntRange(0), help="Tokens of the longest conversation [default: 8192]."
)
@click.option("--python", default="", help="The interpreter that has vLLM [default: NANOFLUX_VLLM_PYTHON].")
@click.option("--arg", "args", multiple=True, help="An argument for vLLM as it is, e.g. --arg=--enforce-eager.")
@with_json
def serve(
    name: str,
    adapters: tuple[str, ...],
    lora: bool | None,
    port: int,
    gpu_memory: float,
    context: int,
    python: str,
    args: tuple[str, ...],
    as_json: bool,
) -> None:
    """Start a vLLM server for NAME, wait until it answers, and leave it running until `models stop`."""
    from nanoflux_local.adapters.store import find_adapter
    from nanoflux_local.config import EndpointConfig

    place = home().prepare()
    supervisor = _supervisor(place)
    folders = [find_adapter(place.adapters, adapter) for adapter in adapters]
    config = EndpointConfig(interface="vllm", model=name, python=python, context=context, args=args)
    if folders and lora is False:
        raise UsageError("--adapter needs a server that takes adapters", "leave out --no-lora")
    record = _started(supervisor, place, config, folders, name, port, gpu_memory, lora=lora, owned=False)
    try:
        for folder in folders:
            record = _load(supervisor, record, folder, place)
    except BaseException:
        supervisor.stop(record)
        raise
    record = supervisor.release(record)
    if as_json:
        print_json(_shown(record))
    else:
        say(f"{name} is served at {record.url}; end it with `nanoflux models stop {name}`")


def _started(
    supervisor: Supervisor,
    place: Home,
    config: "EndpointConfig",
    folders: Sequence[Path],
    name: str,
    port: int = 0,
    gpu_memory: float = 0.0,
    *,
    lora: bool | None = None,
    owned: bool,
) -> ServerRecord:
    """A server that answers, with room for these adapters, and for others that come later if `lora` says so."""
    from dataclasses import replace

    from nanoflux_local.endpoints.managed.launches import Workload, launch_for, rank_for, seats, with_lora
    from nanoflux_models.manifest import load_manifest

    manifest = load_manifest(config.model, place.root)
    if folders or lora:
        with_lora(manifest, place)
    rank = rank_for(folders) if folders or _takes_adapters(manifest, place, lora) else 0
    seat = replace(seats([Workload(manifest, rank=rank)])[config.model][0], sequences=0)
    if gpu_memory:
        seat = replace(seat, utilisation=gpu_memory)
    launch = launch_for(config, place, seat, sleeps=False, rank=rank)
    for node, words in enumerate(launch.other_nodes(), start=1):
        say(f"start on machine {node}: {shlex.join(words)}")
    while not (turn := supervisor.take_turn()):
        time.sleep(FOLLOW_S)
    with turn:
        started = supervisor.spawn(launch, name, port, owned=owned)
        say(f"starting {config.model}; its log: {started.record.log}")
        supervisor.await_ready(started, lambda line: say(f"  {line}"))
    return started.record


def _takes_adapters(manifest: "Manifest", place: Home, lora: bool | None) -> bool:
    """What was asked for; else whether the model can: vLLM for CPUs dies of adapters on a mixture of experts, and on
    GPUs their buffers take 0.8 GiB for gpt-oss-20b."""
    from nanoflux_models.architecture import has_experts
    from nanoflux_models.weights import weights_dir

    if lora is not None:
        return lora
    return manifest.lora is not None and not has_experts(weights_dir(manifest.name, place.root))


def _load(supervisor: Supervisor, record: ServerRecord, folder: Path, place: Home) -> ServerRecord:
    """Load an adapter on a server and prove it, or refuse it."""
    found = _probe(record, folder, place)
    if not found.passed:
        raise RefusedError(f"adapter {folder.name[:12]} is refused: {found.verdict}", "train it again, or use another")
    say(f"adapter {folder.name[:12]}: {found.verdict}")
    return supervisor.note_proved(record, found.adapter)


def _probe(record: ServerRecord, folder: Path, place: Home) -> "Probe":
    from nanoflux_local.adapters.hash import adapter_hash
    from nanoflux_models.control import Control
    from nanoflux_models.probe import probe
    from nanoflux_models.weights import weights_dir

    control, name = Control(record.url), adapter_hash(folder)
    control.load_adapter(name, folder)
    return probe(control, record.model, weights_dir(record.model, place.root), folder, name)


@click.command()
@with_json
def ps(as_json: bool) -> None:
    """The servers that were started here, and how they are."""
    found = [_shown(record) for record in _supervisor(home()).servers()]
    if as_json:
        print_json(found)
        return
    if not found:
        raise NothingMatchedError("no server is running", "start one: nanoflux models serve NAME")
    print_table(
        ("server", "model", "state", "url", "pid", "for", "adapters"),
        [
            [entry["server"], entry["model"], entry["state"], entry["url"], entry["pid"],
             f"process {entry['owner']}" if entry["owner"] else "anyone", len(entry["adapters"])]
            for entry in found
        ],
    )  # fmt: skip


def _shown(record: ServerRecord) -> dict[str, Any]:
    from nanoflux_models.control import Control

    control = Control(record.url)
    ready = record.alive and control.healthy()
    return {
        "server": record.name,
        "model": record.model,
        "state": "ready" if ready else "not answering" if record.alive else "ended",
        "url": record.url,
        "port": record.port,
        "pid": record.pid,
        "owner": record.owner[0] if record.owner else None,
        "adapters": [name for name in control.models() if name != record.model] if ready else [],
        "proved": list(record.proved),
        "log": record.log,
    }


@click.command()
@click.argument("name")
@click.option("--lines", default=40, show_default=True, type=click.IntRange(1), help="How many of the last lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is added, until Ctrl-C or the server's end.")
@with_json
def logs(name: str, lines: int, follow: bool, as_json: bool) -> None:
    """The last lines that the server NAME has written."""
    from nanoflux_models.server_record import log_path

    path = log_path(home().root, name)
    if not path.is_file():
        raise NothingMatchedError(f"no server {name!r} has written anything here", "nanoflux models ps lists them")
    if follow and as_json:
        raise UsageError("--json prints one document, which a log that goes on has no end for", "leave --follow out")
    text = path.read_text("utf-8", errors="replace")
    last = text.splitlines()[-lines:]
    if as_json:
        print_json({"server": name, "log": str(path), "lines": last})
        return
    for line in last:
        click.echo(plain(line))
    for line in _added(path, len(text.encode("utf-8", "replace")), name) if follow else ():
        click.echo(plain(line))


def _added(path: Path, offset: int, name: str) -> Iterator[str]:
    """Lines as they are added, until the server has ended."""
    from nanoflux_models.server_record import find

    with path.open("r", encoding="utf-8", errors="replace") as file:
        file.seek(offset)
        while True:
            record = find(home().root, name)
            more = file.readlines()
            yield from (line.rstrip("\n") for line in more)
            if not more and not (record and record.alive):
                return
            time.sleep(FOLLOW_S)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every server of this home, those of runs included.")
@with_json
def stop(names: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """End the servers NAMES with all that they started, and see that they are gone and their ports free."""
    if bool(names) == everything:
        raise UsageError("name servers, or say --all", "nanoflux models ps lists them")
    supervisor = _supervisor(home())
    chosen = supervisor.servers() if everything else [supervisor.find(name) for name in names]
    for record in chosen:
        supervisor.stop(record)
        say(f"stopped {record.name}; its port {record.port} is free")
    if as_json:
        print_json({"stopped": [record.name for record in chosen]})


@click.command("probe")
@click.argument("adapter")
@click.option("--python", default="", help="The interpreter that has vLLM [default: NANOFLUX_VLLM_PYTHON].")
@click.option("--arg", "args", multiple=True, help="An argument for vLLM as it is, e.g. --arg=--enforce-eager.")
@with_json
def probe_command(adapter: str, python: str, args: tuple[str, ...], as_json: bool) -> None:
    """Prove that ADAPTER works when it is served: it changes what its base says, and says what PEFT says.

    Uses the server of its base where one is running, else one that ends with this command. Exit code 3 where the
    adapter fails.
    """
    from dataclasses import asdict

    from nanoflux_local.adapters.store import find_adapter, read_adapter
    from nanoflux_local.config import EndpointConfig

    place = home().prepare()
    folder = find_adapter(place.adapters, adapter)
    base = read_adapter(folder).base.name
    supervisor = _supervisor(place)
    running = next(
        (r for r in supervisor.servers() if r.model == base and r.owner is None and r.alive and r.rank), None
    )
    config = EndpointConfig(interface="vllm", model=base, python=python, args=args)
    record = running or _started(supervisor, place, config, [folder], f"{base}@{os.getpid()}", owned=True)
    try:
        found = _probe(record, folder, place)
    finally:
        if running is None:
            supervisor.stop(record)
    if as_json:
        print_json({**asdict(found), "base": base, "passed": found.passed, "verdict": found.verdict})
    if not found.passed:
        raise RefusedError(f"adapter {folder.name[:12]} fails: {found.verdict}", "train it again, or use another")
    say(f"adapter {folder.name[:12]}: {found.verdict}")
