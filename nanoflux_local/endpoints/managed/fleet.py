"""The vLLM servers of one process. The first request uses a suitable running server or, if there is none, starts a
server. A server that crashes is replaced, and a server that this process started is stopped when the process exits.

Endpoints of the same model share one server. `vllm` sends the requests; the supervisor manages the server processes.
"""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

from nanoflux_local.errors import EndpointError
from nanoflux_models.errors import ModelsError
from nanoflux_models.launch import Launch
from nanoflux_models.server_client import ServerClient
from nanoflux_models.server_record import ServerRecord
from nanoflux_models.supervisor import Supervisor

MAX_RESTARTS = 3
"""The maximum number of restarts of a crashed server; one more crash fails the run."""
HEALTH_TIMEOUT_S = 10.0
"""How long a server may fail its health check after a failed request: a crashing engine needs a moment to exit."""
POLL_S = 0.2
"""How long to wait between two health checks of a server, or between two attempts to take the lock for starting a
server.
"""
log = logging.getLogger(__name__)


class ManagedServer:
    """One server, which is started on first use. Use it only in one event loop, and in that loop's thread."""

    def __init__(self, home: Path, launch: Launch) -> None:
        self.launch = launch
        self.supervisor = Supervisor(home)
        self.restarts = 0
        self._record: ServerRecord | None = None
        self._exit_future: asyncio.Future[None] | None = None
        self._lock = asyncio.Lock()

    async def ensure_running(self) -> tuple[ServerRecord, asyncio.Future[None]]:
        """Start the server unless it is running; return its record, and a future that is done when the server exits.

        Raises:
            EndpointError: the server cannot be started, or has crashed too often.
        """
        async with self._lock:
            if self._record is None or self._exit_future is None or self._exit_future.done():
                try:
                    await self._find_or_start()
                except ModelsError as error:
                    raise EndpointError(error.message, error.fix) from error
            assert self._record is not None and self._exit_future is not None
            return self._record, self._exit_future

    async def has_failed(self) -> bool:
        """Whether the server has exited or its engine is dead. A server with a dead engine is stopped, so that
        `ensure_running` starts a new one.
        """
        record, exit_future = self._record, self._exit_future
        if record is None or exit_future is None:
            return True
        deadline = asyncio.get_running_loop().time() + HEALTH_TIMEOUT_S
        while not exit_future.done():
            if await asyncio.to_thread(ServerClient(record.url).is_healthy):
                return False
            if asyncio.get_running_loop().time() > deadline:
                await asyncio.to_thread(self.supervisor.stop, record)
                break
            await asyncio.sleep(POLL_S)
        return True

    def record_passed_probe(self, adapter: str) -> None:
        """Record that an adapter, given by its hash, passed its probe on the running server."""
        assert self._record is not None
        self._record = self.supervisor.record_passed_probe(self._record, adapter)

    def record_batch_proof(self) -> None:
        """Record that the running server's replies do not depend on the batch."""
        assert self._record is not None
        self._record = self.supervisor.record_batch_proof(self._record)

    async def close(self) -> None:
        """Stop the server if this process started it. Safe to call twice."""
        record, self._record = self._record, None
        if record is not None and record.owner is not None:
            await asyncio.to_thread(self.supervisor.stop, record)

    async def _find_or_start(self) -> None:
        """Find a suitable running server, or start one. First, stop the remaining processes of crashed servers."""
        if self._record is not None:
            await self._handle_exit(self._record)
        else:
            for crashed_server in await asyncio.to_thread(self.supervisor.sweep):
                log.warning("stopped the remaining processes of server %s", crashed_server.name)
        record = self._find_running() or await self._start()
        self._record, self._exit_future = record, _watch_exit(record.pid)

    async def _handle_exit(self, record: ServerRecord) -> None:
        """Stop the remaining processes of a server that has exited, and count the restart that follows.

        Raises:
            ServerError: the server exited too often.
        """
        error = self.supervisor.explain_exit(record, "exited while it was in use", None)
        await asyncio.to_thread(self.supervisor.stop, record)
        if self.restarts >= MAX_RESTARTS:
            raise error
        self.restarts += 1
        log.warning("%s\n  restarting it (%d of %d)", error.message, self.restarts, MAX_RESTARTS)

    def _find_running(self) -> ServerRecord | None:
        """A server that `models serve` started and that suits this launch, or None."""
        launch = self.launch
        required_model = (launch.model, launch.revision, launch.variant)
        for record in self.supervisor.list_servers():
            is_same_model = (record.model, record.revision, record.variant) == required_model
            has_context = not launch.context or record.context >= launch.max_model_len
            has_adapter_buffers = record.rank >= launch.rank
            is_suitable = is_same_model and has_context and has_adapter_buffers and record.sleeps == launch.sleeps
            started_by_user = record.owner is None
            if is_suitable and started_by_user and record.alive:
                return record
        return None

    async def _start(self) -> ServerRecord:
        """Start a server, and wait until it is ready. On one machine, only one server starts at a time."""
        lock = self.supervisor.lock_start()
        while lock is None:
            await asyncio.sleep(POLL_S)
            lock = self.supervisor.lock_start()
        with lock:
            # An owned server ends with the thread that starts it, so it is started in this thread, which lives as long
            # as the endpoints.
            server = self.supervisor.spawn(self.launch, f"{self.launch.model}@{os.getpid()}")
            log.info("starting the server of %s; its log: %s", self.launch.model, server.record.log)
            try:
                await asyncio.to_thread(self.supervisor.await_ready, server)
            except asyncio.CancelledError:
                with suppress(ModelsError):
                    self.supervisor.stop(server.record, grace_s=2.0)  # this also ends `await_ready` in its thread
                raise
        return server.record


class Fleet:
    """The servers of this process, one for each launch."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._servers: list[ManagedServer] = []

    def server(self, launch: Launch) -> ManagedServer:
        """Return the server of a launch, and add one if the fleet has none; equal launches share a server."""
        server_of_launch = next((server for server in self._servers if server.launch == launch), None)
        if server_of_launch is None:
            server_of_launch = ManagedServer(self._home, launch)
            self._servers.append(server_of_launch)
        return server_of_launch


def _watch_exit(pid: int) -> asyncio.Future[None]:
    """A future that is done when the process exits. The process need not be a child of this one."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        future.set_result(None)
        return future

    def set_exited() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        if not future.done():
            future.set_result(None)

    loop.add_reader(descriptor, set_exited)
    return future
