"""`accelerate launch` of a training: as many processes as its arguments say, each of which goes on with that training.

Owns the command and the end of its processes. Everything about machines, devices and ports is accelerate's own.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from nanoflux_local.errors import UsageError

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
    each = ["-m", "nanoflux_local.cli", "--home", str(home), "trainings", "resume", training]
    command = [sys.executable, "-m", "accelerate.commands.launch", *words, *each]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
