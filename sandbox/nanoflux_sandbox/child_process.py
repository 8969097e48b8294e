"""The child process: a fork of the fork server that isolates itself, receives one program, runs it and exits.

The order matters: every layer must be active before the program is parsed. The child confirms this by writing two bytes
to its output: the first when it waits for a program, the second when the system call filter is active. A child that
cannot isolate itself writes nothing and exits.
"""

from __future__ import annotations

import atexit
import gc
import os
import random
import signal
import struct
import sys
from pathlib import Path
from typing import NoReturn

from nanoflux_sandbox import script
from nanoflux_sandbox.kernel import landlock, libc, privileges, seccomp

READY = b"r"
"""The byte that a child writes to its output when it waits for a program."""
FILTER_ACTIVE = b"e"
"""The byte that a child writes to its output when its system call filter is active, before it parses the program."""
HEADER = struct.Struct("=QQQ")
"""The header of a program: the source's length in bytes, the memory limit in bytes, and the CPU time limit in seconds.
"""

_CLOSE_RANGE = 436
"""The number of the system call close_range."""
_MAX_DESCRIPTOR = 0x7FFFFFFF
_ISOLATION_FAILED = 111
"""The exit code of a child that could not isolate itself."""


class ChildSetup:
    """The data that all children of one fork server share, prepared before the first fork. `mapped_bytes` is the size
    of the fork server's address space, which every child inherits.
    """

    def __init__(self, layers: frozenset[str]) -> None:
        self.system_call_filter = seccomp.Filter(seccomp.compile_filter())
        self.uses_landlock = "landlock" in layers
        mapped_pages = int(Path("/proc/self/statm").read_text().split()[0])
        self.mapped_bytes = mapped_pages * os.sysconf("SC_PAGE_SIZE")


def prepare() -> None:
    """Set the state that every child inherits from the fork server: seeds, streams, program name, environment."""
    _seed_generators()
    _open_streams()
    os.environ.clear()
    os.environ.update(LANG="C.UTF-8", LC_ALL="C.UTF-8", TZ="UTC0", HOME="/", OMP_NUM_THREADS="1")
    sys.argv[:] = [script.NAME]
    sys.orig_argv[:] = [script.NAME]
    sys.executable = ""
    atexit._clear()
    gc.collect()
    gc.freeze()  # so that collections in a child do not write to, and thereby copy, the shared memory


def _seed_generators() -> None:
    """Seed the random number generators of Python and numpy, so that the results of programs are reproducible."""
    random.seed(0)
    if "numpy" in sys.modules:
        numpy_random = sys.modules["numpy.random"]
        numpy_random.seed(0)
        numpy_random.bit_generator.randbits = random.Random(0).getrandbits  # the entropy source of default_rng()


def run_child(setup: ChildSetup, descriptors: list[int]) -> NoReturn:
    """Run one program on `descriptors` (input, output, error output) and exit. Never returns, never raises."""
    exit_process = os._exit  # the program may replace `os._exit`
    exit_code = _ISOLATION_FAILED
    try:
        _keep_only_descriptors(descriptors)
        _isolate(setup)
        os.write(1, READY)
        source = _receive_source(setup)
        setup.system_call_filter.apply()
        os.write(1, FILTER_ACTIVE)
        exit_code = 1  # the exit code if `_run` raises an error
        exit_code = _run(source)
    finally:
        exit_process(exit_code)


def _keep_only_descriptors(descriptors: list[int]) -> None:
    """Make `descriptors` the descriptors 0, 1 and 2 of this process, and close all others."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number, inheritable=False)
    libc.system_call("close_range", _CLOSE_RANGE, 3, _MAX_DESCRIPTOR, 0)


def _open_streams() -> None:
    """Open the standard streams on unused pipes, which each child replaces with its own pipes. If each child opened its
    streams itself, it would take 0.4 ms longer to start.
    """
    read_end, write_end = os.pipe()
    for number, descriptor in enumerate((read_end, write_end, write_end)):
        os.dup2(descriptor, number, inheritable=False)
    os.close(read_end)
    os.close(write_end)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _isolate(setup: ChildSetup) -> None:
    """Apply Landlock and give up all privileges. The system call filter follows later, because it forbids the call that
    sets the resource limits.
    """
    privileges.die_with_parent(signal.SIGKILL)
    if setup.uses_landlock:
        landlock.deny_everything()
    privileges.drop_capabilities()


def _receive_source(setup: ChildSetup) -> bytes:
    """Read the limits and the source of the program, and set the limits. Returns the source."""
    size, memory_bytes, cpu_s = HEADER.unpack(_read_exactly(HEADER.size))
    source = _read_exactly(size)
    privileges.limit_resources(setup.mapped_bytes + memory_bytes, cpu_s)
    return source


def _read_exactly(size: int) -> bytes:
    """Read `size` bytes of the input. Ends the process if the input ends before that."""
    blocks = []
    while size:
        block = os.read(0, min(size, 1 << 20))
        if not block:  # the process that uses the sandbox has exited, or has no program for this child
            os._exit(0)
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def _run(source: bytes) -> int:
    """Decode and run the program. Returns its exit code."""
    try:
        text = source.decode("utf-8")
    except UnicodeDecodeError as error:
        sys.stderr.write(f"UnicodeError: the source is not UTF-8 text: {error.reason}\n")
        return 1
    return script.run(text)
