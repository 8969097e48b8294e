"""Derives the status of a program from the kernel's report on how the child process that ran it ended.

Only one fact comes from the program's output: whether its uncaught exception was a MemoryError. A program that fakes
this only changes the name of its own failure.
"""

from __future__ import annotations

import os
import re
import signal
from typing import NamedTuple

from nanoflux_sandbox.records import Limits, Status

_MEMORY_ERROR = re.compile(r"(?:^|\n)(?:(?:[\w.]+\.)?_?(?:Array)?MemoryError\b|OSError: \[Errno 12\])[^\n]*\s*$")
"""The last line of a traceback for an exception that means that memory ran out. Errno 12 is ENOMEM."""
_CPU_TOLERANCE_S = 0.1
"""If the kernel ended a process at its CPU time limit, the measured CPU time is at most this many seconds below the
limit.
"""


class ChildExit(NamedTuple):
    """How a child process ended: its status as reported by wait(2), its CPU seconds, and whether it was killed at its
    deadline (`late`).
    """

    status: int
    cpu_s: float
    late: bool


class ProgramStatus(NamedTuple):
    """The part of a `Result` that says how the program ended."""

    status: Status
    exit_code: int | None
    detail: str = ""


def classify_exit(
    child_exit: ChildExit, limits: Limits, cpu_limit_s: int, output_exceeded: bool, stderr: str
) -> ProgramStatus:
    """The status of a program, from the exit of its child process and from whether its output exceeded the limits."""
    if output_exceeded:
        return ProgramStatus(
            "output", None, f"more output than {limits.output_bytes} bytes or {limits.output_lines} lines"
        )
    if os.WIFSIGNALED(child_exit.status):
        return _classify_signal(child_exit, limits, cpu_limit_s)
    exit_code = os.WEXITSTATUS(child_exit.status)
    if exit_code == 0:
        return ProgramStatus("ok", 0)
    if exit_code == 1 and _MEMORY_ERROR.search(stderr):
        return ProgramStatus("memory", 1, f"more than {limits.memory_mb} MiB of memory")
    return ProgramStatus("error", exit_code, f"the program ended with exit code {exit_code}")


def _classify_signal(child_exit: ChildExit, limits: Limits, cpu_limit_s: int) -> ProgramStatus:
    """The status of a program whose process was ended by a signal."""
    signal_number = os.WTERMSIG(child_exit.status)
    if child_exit.late:
        return ProgramStatus("timeout", None, f"still running after {limits.wall_s:g} s")
    is_at_cpu_limit = child_exit.cpu_s > cpu_limit_s - _CPU_TOLERANCE_S
    if signal_number in (signal.SIGKILL, signal.SIGXCPU) and is_at_cpu_limit:
        return ProgramStatus("timeout", None, f"more than {cpu_limit_s} s of processor time")
    if signal_number == signal.SIGSYS:
        return ProgramStatus("killed", None, "the program made a system call that no legitimate program makes")
    return ProgramStatus("killed", None, f"ended by {signal.Signals(signal_number).name}")
