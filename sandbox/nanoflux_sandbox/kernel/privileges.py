"""Giving up rights for good: no new privileges, no capability, an ordinary user, hard resource limits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct

from nanoflux_sandbox.kernel import libc
from nanoflux_sandbox.kernel.namespaces import NOBODY

_CAPABILITY_VERSION = 0x20080522
_LAST_CAPABILITY = 63


def no_new_privileges() -> None:
    """Nothing executed from now on can gain rights; Landlock and seccomp ask for it. Raises OSError."""
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process `signal_number` when its parent dies."""
    libc.prctl(libc.PR_SET_PDEATHSIG, signal_number)


def become_ordinary() -> None:
    """Turn root into `nobody`; an ordinary user, or a root that may not, stays who it is."""
    _drop_bounding_set()
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):  # in a container without these rights the capabilities still go
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _drop_bounding_set() -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        with contextlib.suppress(OSError):  # unknown to this kernel, or no right to drop: no_new_privs covers both
            libc.prctl(libc.PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """Give up every capability. Raises OSError where the kernel refuses."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    none_of_them = ctypes.create_string_buffer(struct.pack("=6I", *[0] * 6))
    libc.call("capset", header, none_of_them)
    with contextlib.suppress(OSError):  # kernels before 4.3 have no ambient set
        libc.prctl(libc.PR_CAP_AMBIENT, libc.PR_CAP_AMBIENT_CLEAR_ALL)


def limit_resources(memory_bytes: int, cpu_s: int) -> None:
    """Set the hard limits of one program, nothing of what is not named. Units: bytes of address space, seconds."""
    nothing = (
        resource.RLIMIT_CORE,
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_MEMLOCK,
        resource.RLIMIT_MSGQUEUE,
        resource.RLIMIT_NPROC,
    )
    for kind in nothing:
        resource.setrlimit(kind, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
