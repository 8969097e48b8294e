"""Trains in several processes that `accelerate launch` starts; all of them resume the same training run.

If this process is stopped, it terminates the others. Machines, devices and ports are configured by accelerate.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from nanoflux_local.errors import UsageError
from nanoflux_models.child import build_module_command, make_safe_environment

TERMINATE_TIMEOUT_S = 60.0
"""Seconds from SIGTERM to SIGKILL for the launcher, which itself gives its processes 30 seconds to end."""


def launch(home: Path, training: str, arguments: str) -> int:
    """Train in processes that `accelerate launch ARGUMENTS` starts, and return the launcher's exit code. The
    processes write to stderr. Ctrl-C and SIGTERM terminate them; the last checkpoint is kept.

    Raises:
        UsageError: the arguments cannot be split into shell words.
    """
    try:
        launcher_arguments = shlex.split(arguments)
    except ValueError as error:
        raise UsageError(
            f"--launch {arguments!r} cannot be parsed: {error}", "quote the arguments as in a shell"
        ) from error
    resume_command = ("-m", "nanoflux_local.cli", "--home", str(home), "trainings", "resume", training)
    command = build_module_command("accelerate.commands.launch", *launcher_arguments, *resume_command)
    environment = make_safe_environment(os.environ)  # accelerate starts Python without the option -P
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(TERMINATE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
