"""The fork server: imports the libraries once, isolates itself, then forks a child process for each request.

Programs and their outputs pass directly between caller and child, never through the fork server, so no fork inherits
anything from an earlier program. The fork server enforces the wall time, and reports the end of each child to the
caller over a socket that the children do not inherit. It exits when the caller exits.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from nanoflux_sandbox import child_process, library
from nanoflux_sandbox.kernel import landlock, libc, namespaces, pages, privileges

MESSAGE_BYTES = 4096
"""Maximum size of a request."""


@dataclass(slots=True)
class _Child:
    """A running child. `number` is the caller's number for it, and `deadline` a time on the monotonic clock. `late`
    means that the child was killed at its deadline.
    """

    number: int
    pid: int
    deadline: float = float("inf")
    late: bool = False


class _ForkServer:
    """Forks, times and reaps children, as the caller requests over the socket `control`."""

    def __init__(self, control: socket.socket, caller_pidfd: int, layers: frozenset[str]) -> None:
        self._control = control
        self._caller_pidfd = caller_pidfd
        self._child_setup = child_process.ChildSetup(layers)
        self._pid_namespace = namespaces.open_pid_namespace() if "namespaces" in layers else None
        self._children: dict[int, _Child] = {}  # by pidfd
        self._events = select.poll()
        self._events.register(control, select.POLLIN)
        self._events.register(caller_pidfd, select.POLLIN)

    def serve(self) -> None:
        """Handle requests until the caller closes the socket or exits."""
        while True:
            for descriptor, _ in self._events.poll(self._poll_timeout_ms()):
                if descriptor == self._caller_pidfd:  # the caller has exited
                    return
                if descriptor != self._control.fileno():
                    self._reap(descriptor)
                elif not self._handle_request():
                    return
            self._kill_late_children()

    def _poll_timeout_ms(self) -> float | None:
        """Milliseconds until just after the next deadline; None if no child has a deadline."""
        deadlines = [child.deadline for child in self._children.values() if not child.late]
        next_deadline = min(deadlines, default=float("inf"))
        if next_deadline == float("inf"):
            return None
        seconds_left = max(0.0, next_deadline - time.monotonic())
        return seconds_left * 1000 + 1

    def _handle_request(self) -> bool:
        """Handle one request. Returns False if the caller has closed the socket."""
        message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 3)
        if not message:
            return False
        request = json.loads(message)
        if request["do"] == "fork":
            self._fork(request["child"], descriptors)
            return True
        for child in self._children.values():
            if child.number == request["child"]:
                self._apply_request(child, request)
        return True

    def _apply_request(self, child: _Child, request: dict[str, Any]) -> None:
        """Start the clock of a child, or kill it."""
        if request["do"] == "start":
            child.deadline = time.monotonic() + request["wall_s"]
        else:
            os.kill(child.pid, signal.SIGKILL)

    def _fork(self, number: int, descriptors: list[int]) -> None:
        """Fork a child whose standard streams are the pipe ends `descriptors`, and watch for its exit."""
        if self._pid_namespace is not None:
            namespaces.isolate_next_child()
        pid = libc.fork()
        if pid == 0:
            child_process.run_child(self._child_setup, descriptors)
        if self._pid_namespace is not None:
            namespaces.restore_pid_namespace(self._pid_namespace)
        for descriptor in descriptors:
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = _Child(number, pid)
        self._events.register(pidfd, select.POLLIN)

    def _reap(self, pidfd: int) -> None:
        """Reap a child that has exited, and report its exit to the caller."""
        child = self._children.pop(pidfd)
        self._events.unregister(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(child.pid, 0)
        cpu_s = usage.ru_utime + usage.ru_stime
        send(self._control, do="end", child=child.number, status=status, cpu_s=cpu_s, late=child.late)

    def _kill_late_children(self) -> None:
        """Kill every child whose deadline has passed."""
        now_s = time.monotonic()
        for child in self._children.values():
            if not child.late and child.deadline <= now_s:
                child.late = True
                os.kill(child.pid, signal.SIGKILL)


def send(control: socket.socket, **message: Any) -> None:
    """Send one message to the process at the other end of the socket `control`."""
    control.send(json.dumps(message).encode())


def main() -> None:
    """Run the fork server. `sys.argv` contains the descriptor of the control socket, the caller's pid and the layers to
    apply.
    """
    control_descriptor, caller_pid, layer_names = sys.argv[1:]
    control = socket.socket(fileno=int(control_descriptor))
    try:
        caller_pidfd = os.pidfd_open(int(caller_pid))
        versions = _load()
        fork_server = _isolate(control, caller_pidfd, frozenset(layer_names.split("+")))
    except Exception as error:  # noqa: BLE001 (the caller must learn of any error, as no program can run)
        send(control, do="failed", reason=f"{type(error).__name__}: {error}")
        return
    python = ".".join(str(part) for part in sys.version_info[:3])
    send(control, do="ready", python=python, machine=os.uname().machine, libraries=versions)
    fork_server.serve()
    os._exit(0)  # the PID namespace, or each child's parent-death signal, ends the remaining children


def _load() -> dict[str, str]:
    """Import the libraries and prepare the state that children inherit. Returns the libraries' versions."""
    versions = library.load()
    library.warm_up()
    library.restrict_imports(versions)
    child_process.prepare()
    pages.collapse()
    return versions


def _isolate(control: socket.socket, caller_pidfd: int, layers: frozenset[str]) -> _ForkServer:
    """Isolate this process in `layers`. The fork server is built when most layers are active, but /proc is still
    readable.
    """
    privileges.forbid_new_privileges()
    privileges.drop_root()
    if "namespaces" in layers:
        namespaces.enter()
    # `serve` ends when the caller exits. The signal also ends this process if it is suspended at that time.
    privileges.die_with_parent(signal.SIGKILL)
    if "namespaces" in layers:
        _continue_as_first_process(control)
    fork_server = _ForkServer(control, caller_pidfd, layers)  # reads /proc, which `empty_root` removes
    if "namespaces" in layers:
        namespaces.empty_root()
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    if "landlock" in layers:
        landlock.deny_everything()
    return fork_server


def _continue_as_first_process(control: socket.socket) -> None:
    """Continue as the first process of the new PID namespace; the old process only waits for it."""
    child = libc.fork()
    if child == 0:
        privileges.die_with_parent(signal.SIGKILL)
        return
    control.close()
    os.waitpid(child, 0)
    os._exit(0)
