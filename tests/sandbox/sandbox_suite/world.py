"""The targets of the attacks on one machine: files, a victim process, listening sockets and descriptors."""

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SECRET = "the secret of the host\n"


class World:
    """Files, processes and sockets to attack; `changes` lists what an attack changed and restores it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sandbox-world-"))
        self.folder.chmod(0o755)
        self._sockets = {
            "tcp": socket.create_server(("127.0.0.1", 0)),
            "udp": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "unix": socket.socket(socket.AF_UNIX),
            "abstract": socket.socket(socket.AF_UNIX),
        }
        self._sockets["udp"].bind(("127.0.0.1", 0))
        self._sockets["unix"].bind(str(self.folder / "unix"))
        self._abstract = f"\0{self.folder.name}"
        self._sockets["abstract"].bind(self._abstract)
        for name in ("unix", "abstract"):
            self._sockets[name].listen()
        for target_socket in self._sockets.values():
            target_socket.setblocking(False)
        self._receiver, self.inherited_socket = socket.socketpair()
        self._receiver.setblocking(False)
        self._victim: subprocess.Popen[bytes] | None = None
        self._restore()
        self._secret_file = os.open(self.folder / "secret", os.O_RDONLY)
        self._folder_file = os.open(self.folder, os.O_RDONLY)
        self.inherited = [self._secret_file, self._folder_file, self.inherited_socket.fileno()]
        for descriptor in self.inherited:
            os.set_inheritable(descriptor, True)

    def _restore(self) -> None:
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)
        (self.folder / "scratch").mkdir()
        for name, text in (("secret", SECRET), ("doomed", "doomed\n"), ("hostmodule.py", f"TEXT = {SECRET!r}\n")):
            if not (self.folder / name).exists() or name == "doomed":
                (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o644)
        os.utime(self.folder / "doomed", (10**9, 10**9))
        if self._victim is None or self._victim.poll() is not None:
            # In a new session: that of the test runner may be outside this PID namespace, where its number would be 0.
            self._victim = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
            )
        self._before = self._read_state()

    def _read_state(self) -> dict[str, Any]:
        doomed = self.folder / "doomed"
        state = {path.name: None for path in self.folder.iterdir()}
        doomed_stat = doomed.stat() if doomed.exists() else None
        scratch_names = sorted(path.name for path in (self.folder / "scratch").glob("*"))
        return {
            **state,
            "doomed": doomed_stat
            and (doomed_stat.st_mode, doomed_stat.st_size, doomed_stat.st_mtime, doomed.read_text()),
            "scratch": (self.folder / "scratch").exists() and scratch_names,
        }

    def describe(self) -> dict[str, Any]:
        """The paths, process id, ports and other facts that an attack gets in its variable `W`."""
        assert self._victim is not None
        return {
            "folder": str(self.folder),
            "secret": str(self.folder / "secret"),
            "doomed": str(self.folder / "doomed"),
            "scratch": str(self.folder / "scratch"),
            "victim": self._victim.pid,
            "tcp": self._sockets["tcp"].getsockname()[1],
            "udp": self._sockets["udp"].getsockname()[1],
            "unix": str(self.folder / "unix"),
            "abstract": self._abstract,
            "host": platform.node(),
            "x86": platform.machine() == "x86_64",
        }

    def changes(self) -> list[str]:
        """Return what an attack changed, and restore it."""
        state = self._read_state()
        changed = [name for name in {*self._before, *state} if self._before.get(name, "-") != state.get(name, "-")]
        changed += [name for name, target_socket in self._sockets.items() if self._is_reached(name, target_socket)]
        with contextlib.suppress(BlockingIOError):
            changed += ["inherited socket"] if self._receiver.recv(99) else []
        assert self._victim is not None
        if self._victim.poll() is not None:
            changed.append("victim")
        self._restore()
        return changed

    def _is_reached(self, name: str, target_socket: socket.socket) -> bool:
        try:
            target_socket.recv(99) if name == "udp" else target_socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """End the victim and remove the files."""
        assert self._victim is not None
        self._victim.kill()
        self._victim.wait()
        for target_socket in (*self._sockets.values(), self._receiver, self.inherited_socket):
            target_socket.close()
        os.close(self._secret_file)
        os.close(self._folder_file)
        shutil.rmtree(self.folder, ignore_errors=True)
