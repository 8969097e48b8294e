"""Gives up privileges irrevocably: no new privileges, no capabilities, an ordinary user, hard resource limits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct

from nanoflux_sandbox.kernel import libc
from nanoflux_sandbox.kernel.namespaces import NOBODY

_CAPABILITY_VERSION = 0x20080522
"""The version of the data that capset(2) takes: capabilities in 64 bits."""
_LAST_CAPABILITY = 63
"""The highest number that a capability can have in the 64-bit sets of capset(2)."""


def forbid_new_privileges() -> None:
    """Keep this process and its children from gaining privileges; Landlock and seccomp require it. Raises OSError."""
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent(signal_number: int) -> None:
    """Make the kernel send `signal_number` to this process when its parent dies."""
    libc.prctl(libc.PR_SET_PDEATHSIG, signal_number)


def drop_root() -> None:
    """Change the user from root to `nobody`. The id stays if the user is not root, or if the kernel forbids it."""
    _drop_bounding_set()
    if os.geteuid() != 0:
        return
    with contextlib.suppress(OSError):  # fails in a container without these rights; `drop_capabilities` still applies
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _drop_bounding_set() -> None:
    """Empty the bounding set, which holds the capabilities that this process could ever gain."""
    for capability in range(_LAST_CAPABILITY + 1):
        with contextlib.suppress(OSError):  # unknown to this kernel or not permitted; no_new_privs covers both cases
            libc.prctl(libc.PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """Give up every capability. Raises OSError if the kernel refuses."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    empty_set = ctypes.create_string_buffer(struct.pack("=6I", *[0] * 6))
    libc.call("capset", header, empty_set)
    with contextlib.suppress(OSError):  # kernels before 4.3 have no ambient set
        libc.prctl(libc.PR_CAP_AMBIENT, libc.PR_CAP_AMBIENT_CLEAR_ALL)


def limit_resources(memory_bytes: int, cpu_s: int) -> None:
    """Set the hard limits of one program: `memory_bytes` of address space, `cpu_s` seconds of CPU time, three
    descriptors, and zero for core dumps, file sizes, locked memory, message queues and processes.
    """
    forbidden_resources = (
        resource.RLIMIT_CORE,
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_MEMLOCK,
        resource.RLIMIT_MSGQUEUE,
        resource.RLIMIT_NPROC,
    )
    for forbidden_resource in forbidden_resources:
        resource.setrlimit(forbidden_resource, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
