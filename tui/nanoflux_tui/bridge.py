"""The bridge to the commands: whatever the application does, it does by the command that anybody could type.

A short command is waited for, and its failure is a message. Work that takes long is left to a process of its own
session, which outlives this one; its messages go to a file under the home's `logs`.
"""

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nanoflux_local.paths import Home
from nanoflux_models.child import module_command
from nanoflux_tui.text import harmless

TAIL, LOOK_S = 4_000, 0.03


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. `told` is what it said on stderr, without the progress of its way there."""

    code: int
    out: str
    told: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    def json(self) -> Any:
        """The document on stdout, or None where there is none."""
        try:
            return json.loads(self.out)
        except ValueError:
            return None


@dataclass(slots=True)
class Errand:
    """Something that takes long and was started from here: its label, its process, and where its messages go."""

    label: str
    process: subprocess.Popen[bytes]
    log: Path
    words: tuple[str, ...]
    told: bool = False
    """Whether its failure was told."""

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def last(self, many: int = 1) -> str:
        """The last lines that it has written."""
        try:
            text = self.log.read_bytes()[-TAIL:].decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [part for part in text.replace("\r", "\n").splitlines() if part.strip()]
        return harmless("\n".join(part.strip() for part in lines[-many:]), 600)


class Bridge:
    """Starts commands on one home."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.errands: list[Errand] = []

    def _words(self, words: Sequence[str]) -> list[str]:
        return module_command("nanoflux_local.cli", "--home", str(self.home.root), *words)

    async def do(self, *words: str, only_asks: bool = False) -> Ended:
        """Run a command to its end. Where nobody waits for it any more, one that only asks is ended; a deed goes on, as
        it would in a terminal of its own.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:  # files, which nobody has to empty
            process = subprocess.Popen(
                self._words(words), stdin=subprocess.DEVNULL, stdout=out, stderr=told, start_new_session=True,
                env={**os.environ, "NO_COLOR": "1"},
            )  # fmt: skip
            try:
                while process.poll() is None:
                    await asyncio.sleep(LOOK_S)
            except asyncio.CancelledError:
                if only_asks:
                    process.terminate()
                raise
            said, complained = (_all_of(file) for file in (out, told))
        text = complained.strip().removeprefix("nanoflux: ")
        return Ended(process.returncode, said, harmless(text[-TAIL:]))

    def leave(self, label: str, *words: str) -> Errand:
        """Start a command that outlives this application."""
        folder = self.home.root / "logs"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = folder / f"errand-{os.getpid()}-{len(self.errands)}.log"
        with log.open("wb") as file:
            log.chmod(0o600)
            process = subprocess.Popen(
                self._words(words), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        errand = Errand(label, process, log, tuple(words))
        self.errands.append(errand)
        return errand


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
