"""`nanoflux models serve / ps / logs / stop / probe`: managed vLLM servers that keep running after the command."""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nanoflux_local.cli.common import current_home, print_json, print_table, sanitize, say, with_json
from nanoflux_local.errors import NothingMatchedError, RefusedError, UsageError
from nanoflux_local.paths import Home
from nanoflux_models.server_record import ServerRecord
from nanoflux_models.supervisor import Supervisor

if TYPE_CHECKING:
    from nanoflux_local.config import EndpointConfig
    from nanoflux_models.manifest import Manifest
    from nanoflux_models.probe_record import Probe

POLL_S = 0.3
"""Seconds between two reads of a followed log, and between two attempts to take the lock for starting a server."""


def _open_supervisor(home: Home) -> Supervisor:
    """Open the supervisor of this home's servers, and end processes that a crash has left behind."""
    supervisor = Supervisor(home.root)
    for leftover in supervisor.sweep():
        say(f"ended leftover processes of the server {leftover.name}")
    return supervisor


@click.command()
@click.argument("name")
@click.option("--adapter", "adapters", multiple=True, help="Adapter to load and probe; repeatable.")
@click.option(
    "--lora/--no-lora",
    default=None,
    help="Whether to reserve memory for adapters loaded later [default: yes, except for mixtures of experts].",
)
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="Port of the server [default: a free one].")
@click.option(
    "--gpu-memory",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="Share of each GPU's memory [default: as `models plan` computes it].",
)
@click.option("--context", default=0, type=click.IntRange(0), help="Context length in tokens [default: 8192].")
@click.option("--python", default="", help="Python interpreter with vLLM [default: $NANOFLUX_VLLM_PYTHON].")
@click.option(
    "--arg", "args", multiple=True, help="Argument passed to vLLM unchanged, e.g. --arg=--enforce-eager; repeatable."
)
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

    home = current_home().prepare()
    supervisor = _open_supervisor(home)
    adapter_folders = [find_adapter(home.adapters, adapter) for adapter in adapters]
    config = EndpointConfig(interface="vllm", model=name, python=python, context=context, args=args)
    if adapter_folders and lora is False:
        raise UsageError("--adapter and --no-lora cannot be combined", "leave out one of them")
    record = _start_server(supervisor, home, config, adapter_folders, name, port, gpu_memory, lora=lora, tethered=False)
    try:
        for adapter_folder in adapter_folders:
            record = _load_verified_adapter(supervisor, record, adapter_folder, home)
    except BaseException:
        supervisor.stop(record)
        raise
    record = supervisor.release(record)
    if as_json:
        print_json(_describe_server(record))
    else:
        say(f"{name} is served at {record.url}; stop it with `nanoflux models stop {name}`")


def _start_server(
    supervisor: Supervisor,
    home: Home,
    config: "EndpointConfig",
    adapter_folders: Sequence[Path],
    name: str,
    port: int = 0,
    gpu_memory: float = 0.0,
    *,
    lora: bool | None = None,
    tethered: bool,
) -> ServerRecord:
    """Start a server named `name` and wait until it is ready. The server reserves memory for the adapters in
    `adapter_folders` and, with `lora`, for adapters that are loaded later. If `tethered`, the server ends when the
    calling thread ends.
    """
    from dataclasses import replace

    from nanoflux_local.endpoints.managed.launches import (
        Workload,
        assign_resources,
        choose_rank,
        make_launch,
        require_lora,
    )
    from nanoflux_models.manifest import load_manifest

    manifest = load_manifest(config.model, home.root)
    if adapter_folders or lora:
        require_lora(manifest, home)
    rank = 0  # the server loads no adapters
    if adapter_folders or _reserves_adapter_memory(manifest, home, lora):
        rank = choose_rank(adapter_folders)
    planned_resources, _ = assign_resources([Workload(manifest, rank=rank)])[config.model]
    resources = replace(planned_resources, sequences=0)  # no limit, since the number of requests is not known yet
    if gpu_memory:
        resources = replace(resources, utilisation=gpu_memory)
    launch = make_launch(config, home, resources, sleeps=False, rank=rank)
    for node, arguments in enumerate(launch.list_other_node_commands(), start=1):
        say(f"start on machine {node}: {shlex.join(arguments)}")
    lock = supervisor.lock_start()
    while lock is None:  # another process is starting a server
        time.sleep(POLL_S)
        lock = supervisor.lock_start()
    with lock:
        server = supervisor.spawn(launch, name, port, tethered=tethered)
        say(f"starting {config.model}; its log: {server.record.log}")
        supervisor.await_ready(server, lambda line: say(f"  {line}"))
    return server.record


def _reserves_adapter_memory(manifest: "Manifest", home: Home, lora: bool | None) -> bool:
    """Whether to reserve memory for adapters: as the user chose (`lora`). By default (None), memory is reserved if the
    manifest has LoRA targets and the model is not a mixture of experts: with such a model, vLLM for CPUs crashes on
    adapters, and on GPUs the adapters' buffers take much memory (0.8 GiB for gpt-oss-20b).
    """
    from nanoflux_models.architecture import has_experts
    from nanoflux_models.weights import weights_dir

    if lora is not None:
        return lora
    return manifest.lora is not None and not has_experts(weights_dir(manifest.name, home.root))


def _load_verified_adapter(supervisor: Supervisor, record: ServerRecord, folder: Path, home: Home) -> ServerRecord:
    """Load an adapter on a server, probe it, and record that it passed.

    Raises:
        RefusedError: the adapter fails the probe.
    """
    probe = _load_and_probe(record, folder, home)
    if not probe.passed:
        raise RefusedError(
            f"adapter {folder.name[:12]} fails the probe: {probe.verdict}", "train it again or use another adapter"
        )
    say(f"adapter {folder.name[:12]}: {probe.verdict}")
    return supervisor.record_passed_probe(record, probe.adapter)


def _load_and_probe(record: ServerRecord, folder: Path, home: Home) -> "Probe":
    """Load the adapter in `folder` on a server and compare its output with the base model's and PEFT's."""
    from nanoflux_local.adapters.hash import adapter_hash
    from nanoflux_models.probe import probe
    from nanoflux_models.server_client import ServerClient
    from nanoflux_models.weights import weights_dir

    client = ServerClient(record.url)
    adapter = adapter_hash(folder)
    client.load_adapter(adapter, folder)
    return probe(client, record.model, weights_dir(record.model, home.root), folder, adapter)


@click.command()
@with_json
def ps(as_json: bool) -> None:
    """List the servers of this home and their state."""
    servers = [_describe_server(record) for record in _open_supervisor(current_home()).list_servers()]
    if as_json:
        print_json(servers)
        return
    if not servers:
        raise NothingMatchedError("no server is running", "start one with `nanoflux models serve NAME`")
    print_table(
        ("server", "model", "state", "url", "pid", "used by", "adapters"),
        [
            [entry["server"], entry["model"], entry["state"], entry["url"], entry["pid"],
             f"process {entry['owner']}" if entry["owner"] else "any process", len(entry["adapters"])]
            for entry in servers
        ],
    )  # fmt: skip


def _describe_server(record: ServerRecord) -> dict[str, Any]:
    from nanoflux_models.server_client import ServerClient

    client = ServerClient(record.url)
    is_ready = record.alive and client.is_healthy()
    state = "ended"
    if record.alive:
        state = "ready" if is_ready else "not answering"
    return {
        "server": record.name,
        "model": record.model,
        "state": state,
        "url": record.url,
        "port": record.port,
        "pid": record.pid,
        "owner": record.owner[0] if record.owner else None,
        "adapters": [name for name in client.list_models() if name != record.model] if is_ready else [],
        "proved": list(record.proved),
        "log": record.log,
    }


@click.command()
@click.argument("name")
@click.option("--lines", default=40, show_default=True, type=click.IntRange(1), help="Number of lines to print.")
@click.option("--follow", "-f", is_flag=True, help="Print new lines until Ctrl-C or the server's end.")
@with_json
def logs(name: str, lines: int, follow: bool, as_json: bool) -> None:
    """Print the last lines of the log of the server NAME."""
    from nanoflux_models.server_record import log_path

    path = log_path(current_home().root, name)
    if not path.is_file():
        raise NothingMatchedError(f"no log of a server {name!r} in this home", "list servers with `nanoflux models ps`")
    if follow and as_json:
        raise UsageError(
            "--json and --follow cannot be combined: a followed log is not one JSON document", "leave out one of them"
        )
    text = path.read_text("utf-8", errors="replace")
    last_lines = text.splitlines()[-lines:]
    if as_json:
        print_json({"server": name, "log": str(path), "lines": last_lines})
        return
    for line in last_lines:
        click.echo(sanitize(line))
    if follow:
        read_bytes = len(text.encode("utf-8", "replace"))
        for line in _follow_lines(path, read_bytes, name):
            click.echo(sanitize(line))


def _follow_lines(path: Path, offset: int, name: str) -> Iterator[str]:
    """Yield the lines after the first `offset` bytes of a log, as they are written, until the server `name` ends."""
    from nanoflux_models.server_record import find_record

    with path.open("r", encoding="utf-8", errors="replace") as file:
        file.seek(offset)
        while True:
            record = find_record(current_home().root, name)
            new_lines = file.readlines()
            yield from (line.rstrip("\n") for line in new_lines)
            if not new_lines and not (record and record.alive):
                return
            time.sleep(POLL_S)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--all", "all_servers", is_flag=True, help="Stop every server of this home, including those of runs.")
@with_json
def stop(names: tuple[str, ...], all_servers: bool, as_json: bool) -> None:
    """Stop the servers NAMES with their child processes, and wait until their ports are free."""
    if bool(names) == all_servers:
        raise UsageError("stop needs either names of servers or --all", "list servers with `nanoflux models ps`")
    supervisor = _open_supervisor(current_home())
    records = supervisor.list_servers() if all_servers else [supervisor.find(name) for name in names]
    for record in records:
        supervisor.stop(record)
        say(f"stopped {record.name}; its port {record.port} is free")
    if as_json:
        print_json({"stopped": [record.name for record in records]})


@click.command("probe")
@click.argument("adapter")
@click.option("--python", default="", help="Python interpreter with vLLM [default: $NANOFLUX_VLLM_PYTHON].")
@click.option(
    "--arg", "args", multiple=True, help="Argument passed to vLLM unchanged, e.g. --arg=--enforce-eager; repeatable."
)
@with_json
def probe_command(adapter: str, python: str, args: tuple[str, ...], as_json: bool) -> None:
    """Probe ADAPTER on vLLM: its output must differ from that of the base model and agree with that of PEFT.

    Uses a running server of the base model, else starts one for this command. Exit code 3 means that the adapter fails.
    """
    from dataclasses import asdict

    from nanoflux_local.adapters.store import find_adapter, read_adapter
    from nanoflux_local.config import EndpointConfig

    home = current_home().prepare()
    folder = find_adapter(home.adapters, adapter)
    base = read_adapter(folder).base.name
    supervisor = _open_supervisor(home)
    running_servers = [server for server in supervisor.list_servers() if server.alive and server.owner is None]
    usable_servers = [
        server
        for server in running_servers
        if server.model == base and server.rank  # a server with rank 0 loads no adapters
    ]
    running_server = usable_servers[0] if usable_servers else None
    config = EndpointConfig(interface="vllm", model=base, python=python, args=args)
    record = running_server or _start_server(supervisor, home, config, [folder], f"{base}@{os.getpid()}", tethered=True)
    try:
        probe = _load_and_probe(record, folder, home)
    finally:
        if running_server is None:
            supervisor.stop(record)
    if as_json:
        print_json({**asdict(probe), "base": base, "passed": probe.passed, "verdict": probe.verdict})
    if not probe.passed:
        raise RefusedError(
            f"adapter {folder.name[:12]} fails the probe: {probe.verdict}", "train it again or use another adapter"
        )
    say(f"adapter {folder.name[:12]}: {probe.verdict}")
