"""The functions of libc that Python does not offer: prctl, unshare, mounts, capabilities, a bare fork, and system calls
by number.
"""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_LIBC_UNDER_GIL = ctypes.PyDLL(None, use_errno=True)
"""The same library, called without releasing the GIL, so that the child of a fork holds the GIL too."""

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

Argument = int | bytes | None | ctypes.Array[ctypes.c_char]


def _check_outcome(name: str, outcome: int) -> int:
    """The return value of the function `name`. Raises OSError with errno if the value is negative."""
    if outcome < 0:
        error_number = ctypes.get_errno()
        raise OSError(error_number, f"{name}: {os.strerror(error_number)}")
    return outcome


def call(name: str, *arguments: Argument) -> int:
    """Call the function `name` of libc with integers, byte strings or buffers. Raises OSError if it fails."""
    c_arguments = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _check_outcome(name, getattr(_LIBC, name)(*c_arguments))


def system_call(name: str, number: int, *arguments: Argument) -> int:
    """Make the system call `number`, for which libc has no function. Raises OSError if it fails."""
    c_arguments = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return _check_outcome(name, _LIBC.syscall(ctypes.c_long(number), *c_arguments))


def prctl(option: int, *arguments: Argument) -> int:
    """prctl(2) with zeros for unused arguments. Raises OSError if it fails."""
    return call("prctl", option, *arguments, *([0] * (4 - len(arguments))))


def fork() -> int:
    """fork(2) without Python's own housekeeping in the child, which would write to two hundred pages and so copy them.

    Use it only in a process with one thread whose child needs no new random seed. Raises OSError if it fails.
    """
    return _check_outcome("fork", _LIBC_UNDER_GIL.fork())
