"""The supervisor: starts vLLM servers, waits until they answer, finds servers that a crash left behind, and stops them.

Each server is a separate session and process group, and listens only on loopback. A server with an owner is signalled
when the owner dies, and ends with it; a server without an owner runs until `stop`. The supervisor stops only processes
that belong to a server of this home, and checks that all of them have ended.
"""

import contextlib
import fcntl
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nanoflux_models import server_record
from nanoflux_models.child import build_module_command
from nanoflux_models.errors import NoServerError, ServerError, ServerRefusedError
from nanoflux_models.exits import find_exit_cause, quote_last_lines
from nanoflux_models.launch import MARK_VARIABLE, Launch
from nanoflux_models.processes import (
    Process,
    boot_id,
    end_processes,
    find_descendants,
    find_marked,
    find_process,
    this_process,
)
from nanoflux_models.server_client import ServerClient
from nanoflux_models.server_record import ServerRecord

Progress = Callable[[str], None]
"""A function that is called with lines of a starting server's log."""
READY_TIMEOUT_S = 1800.0
"""The timeout of a start, which is long because large models may be read from slow disks, and are compiled."""
GRACE_S = 20.0
"""Seconds that a server has to stop before it is killed."""
POLL_S = 0.2
"""Seconds between two checks of a starting server."""
TAIL_BYTES = 20_000
"""The number of bytes at the end of a log that are searched for the cause of an exit."""


class StartedServer:
    """A server, as seen by the process that started it."""

    def __init__(self, record: ServerRecord, child: subprocess.Popen[bytes]) -> None:
        self.record, self._child = record, child

    def exit_code(self) -> int | None:
        """The server's exit code; None while it runs."""
        return self._child.poll()


class Supervisor:
    """Manages the servers of one home."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def list_servers(self) -> list[ServerRecord]:
        """The records of all servers, running or not."""
        return server_record.read_records(self._home)

    def find(self, name: str) -> ServerRecord:
        """The record of the server `name`.

        Raises:
            NoServerError: no server has this name.
        """
        record = server_record.find_record(self._home, name)
        if record is None:
            names = [server.name for server in self.list_servers()]
            fix = f"choose one that `nanoflux models ps` lists: {', '.join(names) if names else 'none'}"
            raise NoServerError(f"there is no server {name!r}", fix)
        return record

    def lock_start(self) -> contextlib.AbstractContextManager[None] | None:
        """Take the lock for starting a server; return None while another process or thread holds the lock.

        Only one server starts at a time: two servers that measured a GPU's free memory at the same time would both
        claim it. The kernel releases the lock if the process dies.
        """
        folder = self._home / "servers"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return _close_afterwards(descriptor)

    def sweep(self) -> list[ServerRecord]:
        """Stop servers whose owner was killed, and the remaining processes of servers that died. Return the records of
        these servers.

        A dead server whose owner still runs is not touched, since the owner handles it.
        """
        stopped_records = []
        for record in self.list_servers():
            if record.should_run and (record.alive or record.owner is not None):
                continue
            self.stop(record)
            stopped_records.append(record)
        return stopped_records

    def spawn(self, launch: Launch, name: str, port: int = 0, tethered: bool = True) -> StartedServer:
        """Start a server and return immediately. A tethered server ends with the calling *thread*, which must stay
        alive. The calling process owns the server, tethered or not, until `release`.

        Raises:
            ServerRefusedError: a server of that name is running.
            ServerError: `port` is in use, or the interpreter cannot be started.
        """
        prior_record = server_record.find_record(self._home, name)
        if prior_record and prior_record.alive:
            raise ServerRefusedError(f"server {name} is already running", f"run `nanoflux models stop {name}` first")
        if prior_record:
            self.stop(prior_record)
        mark = secrets.token_hex(16)
        port = find_free_port(port)
        log = server_record.log_path(self._home, name)
        command = launch.build_command(port)
        if tethered:
            command = build_module_command("nanoflux_models.tether", str(os.getpid()), *command)
        child = _start_process(command, launch.build_environment(mark), log)
        process = find_process(child.pid)
        assert process is not None  # a child that exited remains in the process table until it is waited for
        record = ServerRecord(
            name=name,
            model=launch.model,
            revision=launch.revision,
            variant=launch.variant,
            url=f"http://127.0.0.1:{port}/v1",
            port=port,
            pid=process.pid,
            started=process.start_ticks,
            boot=boot_id(),
            mark=mark,
            owner=_identify_self(),  # every server has an owner while it starts; `release` removes it
            log=str(log),
            context=launch.max_model_len,
            sleeps=launch.sleeps,
            rank=launch.rank,
        )
        server_record.write_record(self._home, record)
        return StartedServer(record, child)

    def await_ready(
        self, started: StartedServer, on_progress: Progress = lambda _: None, ready_s: float = READY_TIMEOUT_S
    ) -> None:
        """Wait until the server has generated one token; if it does not, stop the server. `on_progress` is called with
        each new last line of the server's log.

        Raises:
            ServerError: the server exited, or took longer than `ready_s`. The message states the cause from its log.
        """
        record = started.record
        client = ServerClient(record.url)
        deadline = time.monotonic() + ready_s
        reported_line = ""
        try:
            while not client.is_healthy() or record.model not in client.list_models():
                code = started.exit_code()
                if code is not None:
                    raise self.explain_exit(record, f"exited before it answered (exit code {code})", code)
                if time.monotonic() > deadline:
                    raise self.explain_exit(record, f"did not answer within {ready_s:.0f} s", None)
                last_lines = quote_last_lines(_read_tail(record), count=1)
                if last_lines and last_lines[0] != reported_line:
                    reported_line = last_lines[0]
                    on_progress(reported_line)
                time.sleep(POLL_S)
            self._await_token(started, client)
        except BaseException:
            self.stop(record, grace_s=5.0)
            started.exit_code()  # removes the stopped process from the process table
            raise

    def _await_token(self, started: StartedServer, client: ServerClient) -> None:
        """Send the first request: some servers report that they are healthy, but crash on their first request."""
        record = started.record
        try:
            client.complete({"model": record.model, "prompt": "1", "max_tokens": 1, "temperature": 0})
        except ServerError as error:
            time.sleep(POLL_S)  # gives a dying engine time to log its error
            failure = self.explain_exit(record, "answered its health check but no request", started.exit_code())
            raise ServerError(f"{failure.message}\n    {error.message}", failure.fix) from error

    def release(self, record: ServerRecord) -> ServerRecord:
        """Remove a server's owner from its record, so that the server continues to run after this process ends."""
        ownerless_record = record.model_copy(update={"owner": None})
        server_record.write_record(self._home, ownerless_record)
        return ownerless_record

    def record_passed_probe(self, record: ServerRecord, adapter: str) -> ServerRecord:
        """Record that an adapter passed its probe on this server."""
        stored_record = server_record.find_record(self._home, record.name) or record
        proved_adapters = tuple(dict.fromkeys([*stored_record.proved, adapter]))  # without duplicates
        updated_record = stored_record.model_copy(update={"proved": proved_adapters})
        server_record.write_record(self._home, updated_record)
        return updated_record

    def record_batch_proof(self, record: ServerRecord) -> ServerRecord:
        """Record that this server's replies do not depend on the batch."""
        stored_record = server_record.find_record(self._home, record.name) or record
        updated_record = stored_record.model_copy(update={"batch_proved": True})
        server_record.write_record(self._home, updated_record)
        return updated_record

    def stop(self, record: ServerRecord, grace_s: float = GRACE_S) -> None:
        """Stop a server and all its processes, and check that they have ended and that the port is free.

        Raises:
            ServerError: a process still runs, or the port is in use; then the record remains.
        """
        processes = list_server_processes(record)
        main_process = [process for process in processes if process == record.process]  # empty if it has ended
        remaining = end_processes(main_process, grace_s)  # on SIGTERM, the main process first stops its workers
        workers = [process for process in list_server_processes(record) if process not in remaining]
        remaining += end_processes(workers, min(grace_s, 5.0))
        orphans = [process for process in processes if process not in remaining]  # descendants of ended processes
        remaining += end_processes(orphans, 0.0)
        ran_until_now = record.boot == boot_id() and bool(main_process)
        if remaining or (ran_until_now and not _is_port_free(record.port)):
            pids = ", ".join(str(process.pid) for process in remaining)
            problem = f"processes {pids} still run" if remaining else f"port {record.port} is still in use"
            raise ServerError(f"server {record.name} could not be stopped: {problem}", f"read its log: {record.log}")
        server_record.remove_record(self._home, record)

    def explain_exit(self, record: ServerRecord, event: str, code: int | None) -> ServerError:
        """The error for a server that exited or failed. `event` says what happened, such as "exited before it
        answered"; the error adds the cause that the server's log reveals, and the log's last lines.
        """
        log_tail = _read_tail(record)
        cause, fix = find_exit_cause(log_tail, code)
        quoted = "".join(f"\n    {line}" for line in quote_last_lines(log_tail))
        return ServerError(f"the server of {record.model} {event}: {cause}{quoted}", f"{fix}; its log: {record.log}")


def list_server_processes(record: ServerRecord) -> list[Process]:
    """All running processes of a server: those with its mark, its first process, and that process's descendants."""
    if record.boot != boot_id():
        return []
    processes = find_marked(f"{MARK_VARIABLE}={record.mark}")
    root = record.process
    if find_process(root.pid) == root:
        processes += [root, *find_descendants(root)]
    return [process for process in dict.fromkeys(processes) if process.alive]


def find_free_port(port: int = 0) -> int:
    """A free port on loopback: `port`, or any free port if `port` is 0.

    Raises:
        ServerError: `port` is in use.
    """
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerError(
                f"port {port} is in use: {error.strerror}", "choose another port, or omit it to use any free port"
            ) from error
        return int(probe_socket.getsockname()[1])


@contextlib.contextmanager
def _close_afterwards(descriptor: int) -> Iterator[None]:
    """Close a file descriptor when the context ends, which also releases a lock on it."""
    try:
        yield
    finally:
        os.close(descriptor)


def _is_port_free(port: int) -> bool:
    """Whether no process uses a port on loopback."""
    try:
        return find_free_port(port) == port
    except ServerError:
        return False


def _start_process(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a new session, with all its output written to `log`.

    Raises:
        ServerError: the command cannot be started.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("wb") as file:
        log.chmod(0o600)
        try:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        except OSError as error:
            raise ServerError(f"{command[0]} cannot be started: {error.strerror}", "check the interpreter") from error


def _read_tail(record: ServerRecord) -> str:
    """The last `TAIL_BYTES` of a server's log; "" if the log cannot be read."""
    try:
        with Path(record.log).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _identify_self() -> tuple[int, int]:
    """The pid and the start time of this process, which identify the owner of a server."""
    current = this_process()
    return current.pid, current.start_ticks
