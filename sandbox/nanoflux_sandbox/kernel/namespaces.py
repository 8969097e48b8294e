"""Namespaces: a program sees no other user, process, network, host name or file.

The root is an empty, read-only tmpfs: everything that a program may import is already in memory, so not even the files
of the interpreter are needed. Each program gets a separate PID namespace inside that of the fork server.
"""

from __future__ import annotations

import os
from pathlib import Path

from nanoflux_sandbox.kernel import libc

_NEW_NS, _NEW_CGROUP, _NEW_UTS, _NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2

NOBODY = 65534
"""The user id and the group id of `nobody`."""
_MOUNT_POINT = b"/tmp"
"""A folder that exists on every machine. The new root is mounted there before it replaces the old one."""


def enter() -> None:
    """Move this process into new namespaces; its next child becomes the first process of a new PID namespace.

    Inside the namespaces, the process is `nobody`, and its capabilities apply only to the namespaces. Raises OSError if
    the kernel, its settings or a security module refuses.
    """
    user, group = os.geteuid(), os.getegid()
    libc.prctl(libc.PR_SET_DUMPABLE, 1)  # otherwise /proc/self would belong to root after a change of user
    libc.call("unshare", _NEW_USER | _NEW_NS | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS | _NEW_CGROUP)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {group} 1")
    libc.call("sethostname", b"sandbox", len(b"sandbox"))


def empty_root() -> None:
    """Replace the file system with an empty, read-only file system. Raises OSError if a mount is refused."""
    libc.call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    libc.call("mount", b"none", _MOUNT_POINT, b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"size=4k,nr_inodes=2")
    os.chdir(_MOUNT_POINT)
    libc.call("pivot_root", b".", b".")  # mounts the old root on top of the new one
    libc.call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    libc.call("mount", b"none", b"/", None, flags, None)
    if any(Path("/").iterdir()):
        raise OSError("the new root is not empty")


def open_pid_namespace() -> int:
    """A descriptor of this process's PID namespace, for returning to it after each fork."""
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def isolate_next_child() -> None:
    """Make the next child the first process of a new PID namespace. Raises OSError if that fails."""
    libc.call("unshare", _NEW_PID)


def restore_pid_namespace(pid_namespace: int) -> None:
    """Undo `isolate_next_child`, so that it can be called again."""
    libc.call("setns", pid_namespace, _NEW_PID)
