"""Executes a program that ends with its parent: `python -m nanoflux_models.tether PARENT COMMAND…`.

The kernel sends SIGTERM to this process when the thread that started it ends. COMMAND then replaces this program in the
same process, and keeps its pid and this setting. This is a separate program because running code between fork and exec
is unsafe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Set the death signal, check that the parent is still alive, and execute COMMAND."""
    parent = int(arguments[0])
    command = arguments[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(f"process {parent} ended before {command[0]} was started")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
