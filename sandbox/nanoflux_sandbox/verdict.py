"""Derives a program's status from how its guest ended: outside the guest, from what the kernel reports.

Only one fact comes from the program's own output: whether its uncaught exception was a MemoryError. A program that
fakes this only changes the name of its own failure.
"""

from __future__ import annotations

import os
import re
import signal
from typing import NamedTuple

from nanoflux_sandbox.records import Limits, Status

_MEMORY_ERROR = re.compile(r"(?:^|\n)(?:(?:[\w.]+\.)?_?(?:Array)?MemoryError\b|OSError: \[Errno 12\])[^\n]*\s*$")


class End(NamedTuple):
    """How a guest ended: its wait status, processor seconds, and whether it was killed for exceeding its time."""

    status: int
    cpu_s: float
    late: bool


class Verdict(NamedTuple):
    """The part of a `Result` that is not output."""

    status: Status
    exit_code: int | None
    detail: str = ""


def derive_verdict(end: End, limits: Limits, cpu_limit_s: int, over: bool, stderr: str) -> Verdict:
    """The verdict on a guest with this end; `over` tells whether its output was cut."""
    if over:
        return Verdict("output", None, f"more output than {limits.output_bytes} bytes or {limits.output_lines} lines")
    if os.WIFSIGNALED(end.status):
        return _derive_signal_verdict(end, limits, cpu_limit_s)
    code = os.WEXITSTATUS(end.status)
    if code == 0:
        return Verdict("ok", 0)
    if code == 1 and _MEMORY_ERROR.search(stderr):
        return Verdict("memory", 1, f"more than {limits.memory_mb} MiB of memory")
    return Verdict("error", code, f"it ended with exit code {code}")


def _derive_signal_verdict(end: End, limits: Limits, cpu_limit_s: int) -> Verdict:
    number = os.WTERMSIG(end.status)
    if end.late:
        return Verdict("timeout", None, f"still running after {limits.wall_s:g} s")
    if number in (signal.SIGKILL, signal.SIGXCPU) and end.cpu_s > cpu_limit_s - 0.1:
        return Verdict("timeout", None, f"more than {cpu_limit_s} s of processor time")
    if number == signal.SIGSYS:
        return Verdict("killed", None, "it made a system call that no innocent program makes")
    return Verdict("killed", None, f"ended by {signal.Signals(number).name}")
