"""Finds and signals processes, which are identified by pid, start time and boot id, read from Linux's /proc.

A pid alone does not identify a process, since the kernel reuses pids. A signal is sent through a pidfd that is opened
before the process is identified, so it reaches either the right process or none. Pids below 2 are never signalled.
"""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"
"""The file in which the kernel states the id of the current boot."""
LOWEST_SIGNALLED_PID = 2
"""A smaller pid does not identify an ordinary process: it is the init process or, to the kernel, a group of processes.
"""


def boot_id() -> str:
    """The id of the current boot; "" if the kernel does not state it."""
    return BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its pid, and its start time in clock ticks since boot."""

    pid: int
    start_ticks: int

    @property
    def alive(self) -> bool:
        """Whether this process is running; a zombie does not count."""
        entry = _read_stat(self.pid)
        return entry is not None and entry.process == self and entry.state not in "ZX"

    def send_signal(self, number: signal.Signals) -> bool:
        """Send a signal to this process; return False if the process has ended."""
        if self.pid < LOWEST_SIGNALLED_PID:
            return False
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.alive:  # checked after opening the pidfd, which can no longer refer to another process
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True


@dataclass(frozen=True, slots=True)
class _ProcessEntry:
    """A line of the process table: the process, the pids of its parent and its session leader, and its state."""

    process: Process
    parent: int
    session: int
    state: str


def this_process() -> Process:
    """The calling process."""
    current = find_process(os.getpid())
    assert current is not None
    return current


def find_process(pid: int) -> Process | None:
    """The process that currently has the pid `pid`; None if there is no such process."""
    entry = _read_stat(pid)
    return entry.process if entry else None


def find_descendants(root: Process) -> list[Process]:
    """The descendants of `root` and the other processes of its session, without `root` itself."""
    table = _read_process_table()
    if root not in (entry.process for entry in table.values()):
        return []
    pids = {root.pid} | {pid for pid, entry in table.items() if entry.session == root.pid}
    has_grown = True
    while has_grown:  # the children of collected processes are added until no more are found
        children = {pid for pid, entry in table.items() if entry.parent in pids}
        has_grown = not children <= pids
        pids |= children
    return [table[pid].process for pid in sorted(pids - {root.pid})]


def find_marked(mark: str) -> list[Process]:
    """The processes of this user whose environment contains the variable `mark` (`NAME=value`)."""
    variable = mark.encode()
    processes = []
    for pid, entry in _read_process_table().items():
        try:
            if variable in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                processes.append(entry.process)
        except OSError:  # the process of another user, or one that just exited
            continue
    return processes


def end_processes(processes: Iterable[Process], grace_s: float) -> list[Process]:
    """Send SIGTERM to each process, and SIGKILL if it still runs after `grace_s` seconds. Return the processes that run
    even after SIGKILL.
    """
    terminated = [process for process in processes if process.send_signal(signal.SIGTERM)]
    remaining = _wait_until_ended(terminated, grace_s)
    for process in remaining:
        process.send_signal(signal.SIGKILL)
    return _wait_until_ended(remaining, 10.0)


def _wait_until_ended(processes: list[Process], seconds: float) -> list[Process]:
    """Wait until all processes have ended, but at most `seconds`; return the processes that still run."""
    deadline = time.monotonic() + seconds
    remaining = [process for process in processes if process.alive]
    while remaining and time.monotonic() < deadline:
        time.sleep(0.05)
        remaining = [process for process in remaining if process.alive]
    return remaining


def _read_process_table() -> dict[int, _ProcessEntry]:
    """All processes by pid, except processes that exit while the table is read."""
    table: dict[int, _ProcessEntry] = {}
    for path in PROC.iterdir():
        pid = int(path.name) if path.name.isdigit() else 0
        entry = _read_stat(pid) if pid >= LOWEST_SIGNALLED_PID else None
        if entry is not None:
            table[pid] = entry
    return table


def _read_stat(pid: int) -> _ProcessEntry | None:
    """The entry of the process with the pid `pid`; None if there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field, the process name, may contain spaces and brackets, so the third field is found from the right.
    fields_from_third = text[text.rindex(")") + 2 :].split()
    state, parent, _, session = fields_from_third[:4]
    start_ticks = fields_from_third[19]  # field 22 in proc(5)
    return _ProcessEntry(Process(pid, int(start_ticks)), int(parent), int(session), state)
