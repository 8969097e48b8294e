"""The environment of a rehearsal: a scratch home, a fake server that replaces hosted models, and vLLM servers that
serve stand-ins.

A stand-in is a small model that replaces a model of the profile and writes scripted replies. The environment is removed
at the end. In the user's home, only the manifests are read, and nothing is written.
"""

import asyncio
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanoflux_local.config import EndpointConfig, RunConfig, Settings
from nanoflux_local.endpoints.fake_server import FakeServer
from nanoflux_local.endpoints.kinds.base import find_kind
from nanoflux_local.endpoints.managed.launches import make_launch
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.rehearsal.exchanges import reply_to
from nanoflux_models.interpreter import Interpreter, find_interpreter
from nanoflux_models.launch import DEFAULT_RANK, Launch, ServerResources
from nanoflux_models.server_record import ServerRecord
from nanoflux_models.supervisor import Supervisor

LEAN_ARGS = ("--enforce-eager", "--max-num-seqs", "8")
"""Arguments that let vLLM serve a stand-in on a CPU within half a minute of its start."""
STAND_IN_KV_GIB = "1"
"""GiB of KV cache for a stand-in on a CPU; the planned size suits the real model that it replaces."""


class RehearsalEnvironment:
    """A rehearsal's scratch home and the processes started for it. Always call `clear` at the end."""

    def __init__(self, user_home: Home) -> None:
        self.home = Home(Path(tempfile.mkdtemp(prefix="nanoflux-rehearsal-"))).prepare()
        if (user_home.root / "models").is_dir():
            shutil.copytree(user_home.root / "models", self.home.root / "models")
        self.supervisor = Supervisor(self.home.root)
        self.servers: dict[str, ServerRecord] = {}
        """The running servers, by model."""
        self.launches: dict[str, Launch] = {}
        """How each running server was started, by model."""
        self.contexts: dict[str, int] = {}
        """The longest context in tokens that a rehearsed profile sets for a model, by model."""
        self.passed_steps: dict[tuple[str, str], str] = {}
        """The results of passed steps, by step and model, so that a model in several profiles is tested only once."""
        self._hosted: _HostedServer | None = None

    def prepare_interpreter(self) -> Interpreter:
        """Find the Python interpreter that has vLLM. If it serves on a CPU, set the size of its KV cache.

        Raises:
            ServerError: vLLM is not installed.
        """
        interpreter = find_interpreter()
        if interpreter.serves_on_cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", STAND_IN_KV_GIB)
        return interpreter

    def hosted_url(self) -> str:
        """The address of the fake server, which is started on first use."""
        if self._hosted is None:
            self._hosted = _HostedServer()
        return self._hosted.url

    def build_overrides(self, endpoints: Mapping[str, Mapping[str, Any]], on_cpu: bool) -> Settings:
        """The values that replace those of a profile with these `endpoints`: hosted endpoints use the fake server,
        managed endpoints start small servers if vLLM runs on a CPU (`on_cpu`), and the embedder needs no model.
        """
        endpoint_overrides: dict[str, Settings] = {}
        for name, values in endpoints.items():
            overrides = self._override_endpoint(EndpointConfig.model_validate(dict(values)), on_cpu)
            if overrides:
                endpoint_overrides[name] = overrides
        embedder_overrides = override_embedder()
        return {**embedder_overrides, "endpoints": endpoint_overrides | embedder_overrides["endpoints"]}

    def _override_endpoint(self, config: EndpointConfig, on_cpu: bool) -> Settings:
        """The values that replace those of one endpoint; {} if none are replaced."""
        kind = find_kind(config.interface)
        if kind.charges:
            return {"url": self.hosted_url(), "urls": [], "key_env": "", "key_file": ""}
        if kind.managed and on_cpu:
            return {"shares": "", "args": [*config.args, *LEAN_ARGS]}  # vLLM's sleep mode needs a GPU
        return {}

    def make_launch(
        self, config: EndpointConfig, resources_and_sleep_group: tuple[ServerResources, str], accepts_adapters: bool
    ) -> Launch:
        """The launch of an endpoint's server with the resources in `resources_and_sleep_group`, the longest context
        that a rehearsed profile needs, and buffers for an adapter if `accepts_adapters` is true. A server with a sleep
        group can sleep.
        """
        resources, sleep_group = resources_and_sleep_group
        sleeps = bool(sleep_group or config.shares)
        rank = DEFAULT_RANK if accepts_adapters else 0
        launch = make_launch(config, self.home, resources, sleeps, rank)
        return replace(launch, context=max(launch.context, self.contexts.get(config.model, 0)))

    def serve(self, launch: Launch) -> ServerRecord:
        """Start a server unless one with the same launch is running, and wait until it answers. Runs and evaluations of
        this process then use the server until `stop` or `clear` ends it.

        Raises:
            ModelsError: the server did not start; the message states the reason.
        """
        if self.launches.get(launch.model) == launch:
            return self.servers[launch.model]
        if launch.model in self.servers:
            self.supervisor.stop(self.servers.pop(launch.model))
        lock = self.supervisor.lock_start()
        while not lock:  # another process is starting a server
            time.sleep(0.2)
            lock = self.supervisor.lock_start()
        with lock:
            started = self.supervisor.spawn(launch, launch.model)
            self.supervisor.await_ready(started)
        record = self.supervisor.release(started.record)
        self.servers[launch.model] = record
        self.launches[launch.model] = launch
        return record

    def stop(self) -> int:
        """Stop all servers and return their number.

        Raises:
            ServerError: a process of a server is still running.
        """
        records = self.supervisor.list_servers()
        for record in records:
            self.supervisor.stop(record)
        self.servers.clear()
        self.launches.clear()
        return len(records)

    def stop_and_describe(self) -> str:
        """Stop all servers, as `stop` does, and describe the result in one line of text."""
        server_count = self.stop()
        owner = "its" if server_count == 1 else "their"
        return f"{format_quantity(server_count, 'server')} stopped, with all {owner} processes"

    def clear(self, keep: bool = False) -> None:
        """Stop all servers and, unless `keep` is true, remove the scratch home."""
        try:
            self.stop()
        finally:
            if self._hosted is not None:
                self._hosted.close()
            if not keep:
                shutil.rmtree(self.home.root, ignore_errors=True)


def list_managed_endpoints(config: RunConfig) -> dict[str, EndpointConfig]:
    """The endpoints with managed servers that the roles of a run use: one endpoint for each model, by model."""
    endpoints = [config.endpoints[name] for name in config.role_endpoints]
    return {endpoint.model: endpoint for endpoint in endpoints if find_kind(endpoint.interface).managed}


def override_embedder() -> Settings:
    """The overrides that replace a profile's embedder with one that needs no model."""
    endpoint = {"interface": "scripted", "model": "hashing-embedder"}
    return {"endpoints": {"rehearsal-embedder": endpoint}, "embedder": "rehearsal-embedder"}


class _HostedServer:
    """Runs the packaged fake server, which replaces hosted models, in a separate thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = FakeServer(script=reply_to)
        self.url = asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(60)

    def close(self) -> None:
        """Stop the server, and end its thread."""
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()
