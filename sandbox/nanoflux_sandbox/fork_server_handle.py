"""The caller's side of one fork server: starts it, requests child processes, receives how each child ended, and ends
the fork server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from nanoflux_sandbox.exit_status import ChildExit

START_S = 60.0
"""Seconds that a fork server may take to import its libraries and isolate itself."""

_MESSAGE_BYTES = 65536
"""Maximum size of a message from the fork server."""
_PACKAGE_ROOT = str(Path(__file__).resolve().parent.parent)
_START_CODE = "import sys; sys.path.append({root!r}); from nanoflux_sandbox.fork_server import main; main()"
_THREAD_COUNT_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC0", "HOME": "/"}


class ForkServerError(Exception):
    """The fork server ended, or did not become ready; the message says why."""


class StartTimeoutError(ForkServerError):
    """The fork server did not become ready in time, which says nothing about this machine's isolation."""


class ForkServerReport(NamedTuple):
    """The report that a fork server sends when it is ready: the versions of Python and of the third-party libraries,
    and the machine's architecture.
    """

    python: str
    machine: str
    libraries: dict[str, str]


class ForkServerHandle:
    """One fork server, as its caller sees it: its process and the control socket. Belongs to the event loop that
    started it. `layers` names the isolation layers to apply, as in `nanoflux_sandbox.fork_server`.
    """

    def __init__(self, layers: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._child_numbers = itertools.count(1)
        self._exit_by_number: dict[int, asyncio.Future[ChildExit]] = {}
        self._report: asyncio.Future[ForkServerReport] = self._loop.create_future()
        self._report.add_done_callback(_mark_retrieved)
        self.alive = True
        self._control, child_socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with child_socket:
            self._process = _spawn(child_socket, layers)
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._receive_messages)

    @property
    def pid(self) -> int:
        """Process id of the fork server or, if that has its own PID namespace, of the process that waits for it."""
        return self._process.pid

    async def wait_until_ready(self) -> ForkServerReport:
        """Wait until the fork server can fork children. Raises ForkServerError with the reason if it fails, and
        StartTimeoutError if it is not ready in time.
        """
        try:
            return await asyncio.wait_for(asyncio.shield(self._report), START_S)
        except TimeoutError:
            self.give_up("it did not become ready in time")
            raise StartTimeoutError(f"the fork server took longer than {START_S:.0f} s to start") from None

    def fork(self, descriptors: list[int]) -> tuple[int, asyncio.Future[ChildExit]]:
        """Request a child on `descriptors` (input, output, error output). Returns the child's number and a future for
        its exit, which raises ForkServerError if the fork server ends first.
        """
        number = next(self._child_numbers)
        child_exit: asyncio.Future[ChildExit] = self._loop.create_future()
        child_exit.add_done_callback(_mark_retrieved)
        self._exit_by_number[number] = child_exit
        self._send({"do": "fork", "child": number}, descriptors)
        return number, child_exit

    def start_clock(self, number: int, wall_s: float) -> None:
        """Set the deadline of a child to `wall_s` seconds from now."""
        self._send({"do": "start", "child": number, "wall_s": wall_s})

    def kill(self, number: int) -> None:
        """Kill a child now."""
        self._send({"do": "kill", "child": number})

    def _send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Send a request. If that fails, give the fork server up."""
        if not self.alive:
            self.give_up("it has ended")
            return
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors or [])
        except OSError as error:
            self.give_up(str(error))

    def _receive_messages(self) -> None:
        """Handle every message that has arrived. The event loop calls this when the socket is readable."""
        while self.alive:
            try:
                content = self._control.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                content = b""
            if content:
                self._handle_message(json.loads(content))
            else:
                self.give_up("it ended by itself")

    def _handle_message(self, message: dict[str, Any]) -> None:
        """Complete the future that awaits this message. If the message reports a failure, give the fork server up."""
        match message:
            case {"do": "end", "child": number, "status": status, "cpu_s": cpu_s, "late": late}:
                child_exit = self._exit_by_number.pop(number, None)
                if child_exit is not None and not child_exit.done():
                    child_exit.set_result(ChildExit(status, cpu_s, late))
            case {"do": "ready", "python": python, "machine": machine, "libraries": libraries}:
                self._report.set_result(ForkServerReport(python, machine, libraries))
            case {"do": "failed", "reason": reason}:
                self.give_up(reason)

    def give_up(self, reason: str) -> None:
        """Treat the fork server as dead: kill it, and raise ForkServerError wherever its report, or the exit of one of
        its children, is awaited.
        """
        if self.alive:
            self.alive = False
            self._loop.remove_reader(self._control)
            self._control.close()
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        futures: list[asyncio.Future[Any]] = [self._report, *self._exit_by_number.values()]
        for future in futures:
            if not future.done():
                future.set_exception(ForkServerError(f"the fork server ended: {reason}"))
        self._exit_by_number.clear()

    async def close(self) -> None:
        """End the fork server with all its children, and reap it. Idempotent."""
        self.give_up("it was closed")
        await asyncio.to_thread(self._process.wait)


def _mark_retrieved(future: asyncio.Future[Any]) -> None:
    """Mark the future's exception as retrieved; asyncio would report it as an error if nothing awaits the future."""
    if not future.cancelled():
        future.exception()


def _spawn(control: socket.socket, layers: str) -> subprocess.Popen[bytes]:
    """Start the process of a fork server. It inherits the socket `control`, but not the caller's environment."""
    # -s ignores the user's site-packages, -P the working folder, and -B writes no bytecode.
    interpreter = [sys.executable, "-s", "-P", "-B", "-c", _START_CODE.format(root=_PACKAGE_ROOT)]
    arguments = [str(control.fileno()), str(os.getpid()), layers]
    return subprocess.Popen(
        [*interpreter, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[control.fileno()],
        env={**_ENVIRONMENT, **dict.fromkeys(_THREAD_COUNT_VARIABLES, "1"), **_get_library_path()},
        cwd="/",
        start_new_session=True,
    )


def _get_library_path() -> dict[str, str]:
    """The variable LD_LIBRARY_PATH, if it is set: the interpreter may need it to start."""
    if "LD_LIBRARY_PATH" not in os.environ:
        return {}
    return {"LD_LIBRARY_PATH": os.environ["LD_LIBRARY_PATH"]}
