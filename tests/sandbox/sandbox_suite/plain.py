"""Runs an exploit in a plain subprocess, the baseline for the sandbox: with a time limit, but no other protection."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sandbox_suite.exploit import TIMEOUT_S, Effects, Exploit, changed_world, needed_a_kill
from sandbox_suite.world import SECRET, World

_NAIVE_GRADER = str(Path(__file__).with_name("naive_grader.py"))
_LATE_EFFECTS_S = 0.5
"""Seconds to wait for changes made by a daemon that the program left behind."""
_LONG_TIMEOUT_S = 30.0
"""Seconds after which an exploit that is not endless is killed."""


def run(exploit: Exploit, world: World) -> Effects:
    """Run an exploit and return its effects on `world`, including those shortly after its end."""
    read_end, write_end = os.pipe()
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program, os.fdopen(read_end) as grade_file:
        program.write(exploit.source(world.describe()))
        program.flush()
        script = [_NAIVE_GRADER, program.name, str(write_end)] if exploit.graded else [program.name]
        process = subprocess.Popen(
            [sys.executable, *script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=[*world.inherited_descriptors, *([write_end] if exploit.graded else [])],
            env={**os.environ, "HOST_SECRET": SECRET, "OPENBLAS_NUM_THREADS": "1"},
        )
        os.close(write_end)
        stdout, timed_out = _wait_for_end(process, exploit)
        grade = grade_file.read().strip().rpartition("\n")[2] if exploit.graded else ""
        return Effects(stdout, timed_out, grade, world.changes())


def _wait_for_end(process: subprocess.Popen[str], exploit: Exploit) -> tuple[str, bool]:
    """Wait for the program, and kill its process group. Returns its output, and whether it ran until the timeout."""
    timed_out = False
    try:
        is_endless = exploit.success is needed_a_kill
        stdout, _ = process.communicate(timeout=2 * TIMEOUT_S if is_endless else _LONG_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        timed_out = True
    if exploit.success is changed_world and not timed_out:
        time.sleep(_LATE_EFFECTS_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if timed_out:
        stdout, _ = process.communicate()
    return stdout, timed_out
