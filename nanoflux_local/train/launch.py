"""`accelerate launch` of a training: as many processes as its arguments say, each of which goes on with that training.

Owns the command and the end of its processes. Everything about machines, devices and ports is accelerate's own.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from nanoflux_local.errors import UsageError
from nanoflux_models.child import module_command, safe_environment

PATIENCE_S = 60.0
"""The launcher itself gives its processes 30 seconds to end."""


def launch(home: Path, training: str, arguments: str) -> int:
    """Train in processes that `accelerate launch ARGUMENTS` starts, and return its exit code once all have ended. What
    they print goes to stderr. Ctrl-C and SIGTERM end them, with the last checkpoint kept.

    Raises:
        UsageError: the arguments are no shell words.
    """
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise UsageError(f"--launch {arguments!r} cannot be read: {error}", "see `accelerate launch --help`") from error
    each = ("-m", "nanoflux_local.cli", "--home", str(home), "trainings", "resume", training)
    command = module_command("accelerate.commands.launch", *words, *each)
    environment = safe_environment(os.environ)  # accelerate starts Pythons without our flags
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
