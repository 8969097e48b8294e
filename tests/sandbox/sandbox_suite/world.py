"""The targets of the exploits on one machine: files, a victim process, listening sockets and descriptors."""

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
    """Files, a process and sockets to attack. `changes` lists and restores the targets that an exploit changed."""

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
        self.inherited_descriptors = [self._secret_file, self._folder_file, self.inherited_socket.fileno()]
        for descriptor in self.inherited_descriptors:
            os.set_inheritable(descriptor, True)

    def _restore(self) -> None:
        """Create or restore the files and the victim."""
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)
        (self.folder / "scratch").mkdir()
        texts = {"secret": SECRET, "doomed": "doomed\n", "hostmodule.py": f"TEXT = {SECRET!r}\n"}
        for name, text in texts.items():
            file = self.folder / name
            if not file.exists() or name == "doomed":
                file.write_text(text)
            file.chmod(0o644)
        os.utime(self.folder / "doomed", (10**9, 10**9))
        if self._victim is None or self._victim.poll() is not None:
            # The exploit on sessions needs the id of the victim's session. That of the test runner's session would read
            # as 0 if the session was started outside this PID namespace, so the victim starts a new session.
            self._victim = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
            )
        self._state_before = self._read_state()

    def _read_state(self) -> dict[str, Any]:
        """The files in the world's folder, with the properties and the content that an exploit may change."""
        state: dict[str, Any] = {path.name: None for path in self.folder.iterdir()}
        doomed = self.folder / "doomed"
        if doomed.exists():
            file_status = doomed.stat()
            state["doomed"] = (file_status.st_mode, file_status.st_size, file_status.st_mtime, doomed.read_text())
        scratch = self.folder / "scratch"
        if scratch.exists():
            state["scratch"] = sorted(path.name for path in scratch.iterdir())
        return state

    def describe(self) -> dict[str, Any]:
        """The paths, process id, ports and other facts that an exploit gets in its variable `W`."""
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
        """List the names of the targets that an exploit changed, and restore these targets."""
        before, after = self._state_before, self._read_state()
        file_names = {*before, *after}
        changed = [name for name in file_names if before.get(name, "absent") != after.get(name, "absent")]
        changed += [name for name, target_socket in self._sockets.items() if _has_message(name, target_socket)]
        with contextlib.suppress(BlockingIOError):
            if self._receiver.recv(99):
                changed.append("inherited socket")
        assert self._victim is not None
        if self._victim.poll() is not None:
            changed.append("victim")
        self._restore()
        return changed

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


def _has_message(name: str, target_socket: socket.socket) -> bool:
    """Whether an exploit sent a datagram or connected to this socket. Consumes the message or connection."""
    try:
        if name == "udp":
            target_socket.recv(99)
        else:
            connection, _ = target_socket.accept()
            connection.close()
    except BlockingIOError:
        return False
    return True
