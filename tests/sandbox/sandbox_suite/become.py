"""`python become.py ROLE COMMAND…` runs COMMAND as the user `root` or `ordinary`, or as on a kernel without user
namespaces (`no-userns`) or without Landlock (`no-landlock`).

To become an ordinary user, root changes its user ID in a private mount namespace, in which all users can reach the
interpreter even if its folder is otherwise closed to them. An ordinary user becomes root in a new user namespace.
"""

import ctypes
import errno
import os
import struct
import sys
import tempfile
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NS, _NEW_USER = 0x20000, 0x10000000
_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER_MODE = 38, 22, 2
_ORDINARY_ID = 12345


def _call(name: str, *arguments: object) -> None:
    """Call the function `name` of libc. Raises OSError if it fails."""
    if getattr(_LIBC, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def _list_interpreter_paths() -> list[Path]:
    """The folders that the interpreter needs: its installation, its environment, and the project."""
    project = Path(__file__).resolve().parents[3]
    return [Path(sys.base_prefix), Path(sys.prefix), project]


def _find_closed_folder(path: Path) -> Path | None:
    """The outermost folder of `path` that other users cannot enter, if there is one."""
    for folder in reversed([path, *path.parents]):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def _expose_interpreter() -> None:
    """In a private mount namespace, replace each folder that is closed to other users by a folder with only the
    interpreter's paths.
    """
    os.umask(0o022)  # the caller's umask may hide new files from other users
    _call("unshare", _NEW_NS)
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_REC | _PRIVATE), None)
    paths_by_closed_folder: dict[Path, list[Path]] = {}
    for path in _list_interpreter_paths():
        folder = _find_closed_folder(path)
        if folder is not None:
            paths_by_closed_folder.setdefault(folder, []).append(path)
    for folder, paths in paths_by_closed_folder.items():
        stand_in = Path(tempfile.mkdtemp())
        _call("mount", b"none", str(stand_in).encode(), b"tmpfs", ctypes.c_ulong(0), b"mode=755")
        for path in paths:
            mount_point = stand_in / path.relative_to(folder)
            mount_point.mkdir(parents=True, exist_ok=True)
            _call("mount", str(path).encode(), str(mount_point).encode(), None, ctypes.c_ulong(_BIND | _REC), None)
        _call("mount", str(stand_in).encode(), str(folder).encode(), None, ctypes.c_ulong(_BIND | _REC), None)


def _become_root_of_a_namespace() -> None:
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEW_USER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _hide_landlock() -> None:
    """Make the first call of Landlock fail with ENOSYS, as on a kernel without Landlock."""
    instructions = [
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 1, 444),  # unless it is landlock_create_ruleset, skip the next instruction
        (0x06, 0, 0, 0x50000 | errno.ENOSYS),  # return the error
        (0x06, 0, 0, 0x7FFF0000),  # allow the call
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(program)))
    zero = ctypes.c_ulong(0)
    _call("prctl", _SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero)
    _call("prctl", _SET_SECCOMP, ctypes.c_ulong(_FILTER_MODE), header, zero, zero)


def become(role: str) -> None:
    """Change the user of this process, or make a layer unavailable to it. Raises OSError if this is not allowed."""
    if role == "no-userns":
        _become_root_of_a_namespace()
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
    elif role == "no-landlock":
        _hide_landlock()
    elif role == "root" and os.getuid() != 0:
        _become_root_of_a_namespace()
    elif role == "ordinary" and os.getuid() == 0:
        _expose_interpreter()
        os.setgroups([])
        os.setresgid(_ORDINARY_ID, _ORDINARY_ID, _ORDINARY_ID)
        os.setresuid(_ORDINARY_ID, _ORDINARY_ID, _ORDINARY_ID)
        os.environ["HOME"] = "/"
        if not os.access(sys.executable, os.X_OK):
            fix = "run chmod -R a+rX on it, and chmod a+x on its parents"
            raise SystemExit(f"other users cannot enter {sys.prefix}: {fix}")


if __name__ == "__main__":
    become(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])
