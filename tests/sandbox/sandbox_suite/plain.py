"""Runs an attack in a plain subprocess, as the baseline for the sandbox: with a time limit, but no other protection."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sandbox_suite.attack import WALL_S, Attack, Effects, changed_world, needed_a_kill
from sandbox_suite.world import SECRET, World

_JUDGE = str(Path(__file__).with_name("judge.py"))
_LATE_EFFECTS_S = 0.5
"""Seconds for which a daemon that the program has left behind may still change the world."""
_TIMEOUT_S = 30.0
"""Seconds after which an attack that is not endless is killed."""


def run(attack: Attack, world: World) -> Effects:
    """Run an attack and return its effects on `world`, including those shortly after its end."""
    read_end, write_end = os.pipe()
    with tempfile.NamedTemporaryFile("w", suffix=".py") as program, os.fdopen(read_end) as verdict_file:
        program.write(attack.source(world.describe()))
        program.flush()
        script = [_JUDGE, program.name, str(write_end)] if attack.judged else [program.name]
        process = subprocess.Popen(
            [sys.executable, *script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
            pass_fds=[*world.inherited_descriptors, *([write_end] if attack.judged else [])],
            env={**os.environ, "HOST_SECRET": SECRET, "OPENBLAS_NUM_THREADS": "1"},
        )
        os.close(write_end)
        stdout, late = _wait_for_end(process, attack)
        verdict = verdict_file.read().strip().rpartition("\n")[2] if attack.judged else ""
        return Effects(stdout, late, verdict, world.changes())


def _wait_for_end(process: subprocess.Popen[str], attack: Attack) -> tuple[str, bool]:
    """Wait for the program, and kill its process group. Returns its output, and whether it ran until the timeout."""
    late = False
    try:
        is_endless = attack.success is needed_a_kill
        stdout, _ = process.communicate(timeout=2 * WALL_S if is_endless else _TIMEOUT_S)
    except subprocess.TimeoutExpired:
        late = True
    if attack.success is changed_world and not late:
        time.sleep(_LATE_EFFECTS_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    if late:
        stdout, _ = process.communicate()
    return stdout, late
