"""Where a rehearsal plays: a scratch home, the fake server in the place of hosted models, and the servers it started.

Owns everything that has to be cleared away. Nothing here reads or writes the user's home but for its manifests.
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

from nanoflux_local.config import EndpointConfig
from nanoflux_local.endpoints.fake_server import FakeServer
from nanoflux_local.endpoints.kinds.base import find_kind
from nanoflux_local.endpoints.managed.launches import launch_for
from nanoflux_local.paths import Home
from nanoflux_local.rehearsal.lessons import reply_to
from nanoflux_models.interpreter import Interpreter, find_interpreter
from nanoflux_models.launch import RANK, Launch, Seat
from nanoflux_models.server_record import ServerRecord
from nanoflux_models.supervisor import Supervisor

LEAN = ("--enforce-eager", "--max-num-seqs", "8")
"""Arguments that let a server of a stand-in start on a CPU in half a minute."""
KV_GIB = "1"
"""Room for keys and values of a stand-in on a CPU: the plan's is for the true model."""


class Stage:
    """One rehearsal's scratch home and what runs for it. Leave it with `clear`, whatever happened."""

    def __init__(self, user: Home) -> None:
        self.home = Home(Path(tempfile.mkdtemp(prefix="nanoflux-rehearsal-"))).prepare()
        if (user.root / "models").is_dir():
            shutil.copytree(user.root / "models", self.home.root / "models")
        self.supervisor = Supervisor(self.home.root)
        self.servers: dict[str, ServerRecord] = {}
        self.launches: dict[str, Launch] = {}
        self.contexts: dict[str, int] = {}
        self.proved: dict[tuple[str, str], str] = {}
        """What was found about a model, by step and model, so that each is proved once."""
        self._hosted: _Hosted | None = None

    def interpreter(self) -> Interpreter:
        """The Python with vLLM.

        Raises:
            ServerError: there is none.
        """
        found = find_interpreter()
        if found.for_cpu:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_GIB)
        return found

    def hosted_url(self) -> str:
        """The fake server's address, started at first use."""
        self._hosted = self._hosted or _Hosted()
        return self._hosted.url

    def overrides(self, endpoints: Mapping[str, Mapping[str, Any]], for_cpu: bool) -> dict[str, Any]:
        """What a profile's endpoints become here: hosted ones the fake server, managed ones lean servers on a CPU."""
        changed = {
            name: self._endpoint(EndpointConfig.model_validate(dict(values)), for_cpu)
            for name, values in endpoints.items()
        }
        hashing = {"interface": "scripted", "model": "hashing-embedder"}
        return {
            "endpoints": {**{name: more for name, more in changed.items() if more}, "rehearsal-embedder": hashing},
            "embedder": "rehearsal-embedder",
        }

    def _endpoint(self, config: EndpointConfig, for_cpu: bool) -> dict[str, Any]:
        kind = find_kind(config.interface)
        if kind.charges:
            return {"url": self.hosted_url(), "urls": [], "key_env": "", "key_file": ""}
        if kind.managed and for_cpu:
            return {"shares": "", "args": [*config.args, *LEAN]}  # vLLM's sleep mode needs a GPU
        return {}

    def launch(self, config: EndpointConfig, place: tuple[Seat, str], adapts: bool) -> Launch:
        """How the server of an endpoint is started at its place, with room for the longest context of the profiles
        rehearsed, and for an adapter if it is to have one."""
        seat, group = place
        launch = launch_for(config, self.home, seat, bool(group or config.shares), RANK if adapts else 0)
        return replace(launch, context=max(launch.context, self.contexts.get(config.model, 0)))

    def serve(self, launch: Launch) -> ServerRecord:
        """A server that answers `/health`, which the run and the evaluation then find; it ends with this process.

        Raises:
            ModelsError: it did not start; the message says why.
        """
        if self.launches.get(launch.model) == launch:
            return self.servers[launch.model]
        if launch.model in self.servers:
            self.supervisor.stop(self.servers.pop(launch.model))
        while not (turn := self.supervisor.take_turn()):
            time.sleep(0.2)
        with turn:
            started = self.supervisor.spawn(launch, launch.model)
            self.supervisor.await_ready(started)
        self.servers[launch.model], self.launches[launch.model] = self.supervisor.release(started.record), launch
        return self.servers[launch.model]

    def stop(self) -> int:
        """End the servers; returns how many there were.

        Raises:
            ServerError: something of them is left.
        """
        records = self.supervisor.servers()
        for record in records:
            self.supervisor.stop(record)
        self.servers.clear()
        self.launches.clear()
        return len(records)

    def clear(self, keep: bool = False) -> None:
        """End what runs and remove the scratch home, unless it is to be kept."""
        try:
            self.stop()
        finally:
            if self._hosted is not None:
                self._hosted.close()
            if not keep:
                shutil.rmtree(self.home.root, ignore_errors=True)


class _Hosted:
    """The package's fake server, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = FakeServer(script=reply_to)
        self.url = asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(60)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()
