"""Starts `nanoflux` commands. The application acts only through commands that a user could type.

The application waits for a short command, and shows an error if it fails. A long command is started in the background:
it runs in a separate session, outlives the application, and writes its messages to a file in the home's `logs`
directory.
"""

import asyncio
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nanoflux_local.paths import Home
from nanoflux_models.child import build_module_command
from nanoflux_tui.text import sanitize

MAX_LOG_TAIL = 4_000
"""The maximum part of a command's messages that is shown, counted from their end: bytes of a log, or characters of
stderr.
"""
POLL_S = 0.03
"""The interval in seconds at which the application checks whether a command has ended."""
_PROGRESS_LINE = re.compile(r"(?P<label>.*?) (?P<done>\d+)/(?P<total>\d+) ?(?P<note>.*)")
"""A line such as "training 3/10 steps, 1.2 steps/s, 6 s left"."""


@dataclass(frozen=True, slots=True)
class CommandProgress:
    """The progress that a command reports. `done` of `total` units are done; `note` has the unit, the rate and the time
    left, such as "steps, 1.2 steps/s, 40 s left".
    """

    done: int
    total: int
    note: str

    @classmethod
    def parse(cls, line: str) -> "CommandProgress | None":
        """Parse a line such as "training 3/10 steps"; None if the line reports no progress."""
        match = _PROGRESS_LINE.fullmatch(line)
        if match is None or int(match["total"]) == 0:
            return None
        return cls(int(match["done"]), int(match["total"]), match["note"])


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A finished command: its exit code, its standard output, and the end of its standard error."""

    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    def json(self) -> Any:
        """The JSON document on stdout, or None if there is none."""
        try:
            return json.loads(self.stdout)
        except ValueError:
            return None


@dataclass(slots=True)
class BackgroundCommand:
    """A long command that the application started. `label` describes it to the user, `log` is the file with its
    messages, and `arguments` are those of its command line.
    """

    label: str
    process: subprocess.Popen[bytes]
    log: Path
    arguments: tuple[str, ...]
    reported: bool = False
    """Whether the application has shown that the command failed."""

    @property
    def code(self) -> int | None:
        """The exit code, or None while the command runs."""
        return self.process.poll()

    def read_progress(self) -> CommandProgress | None:
        """The progress in the last line of the command's log; None if that line reports none."""
        return CommandProgress.parse(self.read_last_lines())

    def read_last_lines(self, count: int = 1) -> str:
        """The last `count` lines of the command's log that are not blank; "" if there are none."""
        try:
            text = self.log.read_bytes()[-MAX_LOG_TAIL:].decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
        return sanitize("\n".join(lines[-count:]), 600)


class CommandRunner:
    """Starts `nanoflux` commands for one home. `background` lists the long commands in the order in which
    they were started."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.background: list[BackgroundCommand] = []

    def _build_argv(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs `nanoflux` with these arguments for this home."""
        return build_module_command("nanoflux_local.cli", "--home", str(self.home.root), *arguments)

    async def run(self, *arguments: str, read_only: bool = False) -> CommandResult:
        """Run the `nanoflux` command with these arguments and wait until it ends. If the wait is cancelled, a
        `read_only` command is terminated; other commands continue, as they would in another terminal.
        """
        # The output goes to files, since a command that writes to a full pipe would wait forever.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(
                self._build_argv(arguments),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "NO_COLOR": "1"},
            )
            try:
                while process.poll() is None:
                    await asyncio.sleep(POLL_S)
            except asyncio.CancelledError:
                if read_only:
                    process.terminate()
                raise
            output, messages = _read_all(stdout), _read_all(stderr)
        messages = messages.strip().removeprefix("nanoflux: ")
        return CommandResult(process.returncode, output, sanitize(messages[-MAX_LOG_TAIL:]))

    def start_in_background(self, label: str, *arguments: str) -> BackgroundCommand:
        """Start the `nanoflux` command with these arguments; it outlives this application."""
        logs = self.home.root / "logs"
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = logs / f"background-{os.getpid()}-{len(self.background)}.log"
        with log.open("wb") as file:
            log.chmod(0o600)
            process = subprocess.Popen(
                self._build_argv(arguments), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        command = BackgroundCommand(label, process, log, tuple(arguments))
        self.background.append(command)
        return command


def _read_all(file: IO[bytes]) -> str:
    """The whole content of a temporary file. Rewinds it first: the child process shares the file's offset, which is at
    the end.
    """
    file.seek(0)
    return file.read().decode("utf-8", "replace")
