"""The records of the sandbox: the `Limits` of a program, its `Result`, and the `SandboxIdentity` that determines
results.

They are frozen dataclasses whose only behaviour is validation and conversion to JSON types.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

BUSY_FIX = "the machine may be busy; try again"
"""The fix if the sandbox did not start in time."""

MAX_SECONDS = 86_400
"""The maximum of a time limit: a day. The fork server cannot wait for a deadline that is weeks away."""

Status = Literal["ok", "error", "timeout", "memory", "output", "killed", "unavailable"]
"""How a program ended: by itself ("ok", "error"), at one of its limits ("timeout", "memory", "output"), or by a signal
("killed"). "unavailable" means that no program can run.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """The resources that one program may use.

    A program is one process with one thread, three descriptors (an empty input and two pipes) and no file system. It
    cannot create a process, thread, file or socket, so these need no limit.
    """

    wall_s: float = 5.0
    """Seconds from the start of the program to its end; after that, the status is `timeout`."""
    cpu_s: float | None = None
    """Seconds of CPU time, rounded up to whole seconds (status `timeout`). None: the same as `wall_s`."""
    memory_mb: int = 512
    """MiB of address space in addition to what the fork server already maps (status `memory`)."""
    output_bytes: int = 256 * 1024
    """Bytes of output and error output together; the rest is discarded and the status is `output`."""
    output_lines: int = 10_000
    """Lines of output and error output together; the rest is discarded and the status is `output`."""
    source_bytes: int = 1024 * 1024
    """Bytes of the program's source in UTF-8; a program with a longer source is not started (status `error`)."""

    def __post_init__(self) -> None:
        """Reject limits that are not positive and finite, and time limits over `MAX_SECONDS`. Raises ValueError."""
        cpu_s = self.wall_s if self.cpu_s is None else self.cpu_s
        amounts = (self.wall_s, cpu_s, self.memory_mb, self.output_bytes, self.output_lines, self.source_bytes)
        if not all(0 < amount < 2**40 for amount in amounts):
            raise ValueError(f"every limit must be a positive, finite number: {self}")
        if max(self.wall_s, cpu_s) > MAX_SECONDS:
            raise ValueError(f"the time limit must be at most {MAX_SECONDS} seconds, not {max(self.wall_s, cpu_s):g}")


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one program. Only `stdout` and `stderr` contain text from the program; this text is safe to
    display.
    """

    status: Status
    exit_code: int | None
    """The program's exit code; None if it did not exit by itself."""
    stdout: str
    stderr: str
    truncated: bool
    """Whether some output was discarded."""
    wall_s: float
    """Seconds that the caller waited, excluding the time in the queue."""
    backend: str
    """The layers that isolated the program, for example `linux:namespaces+landlock+seccomp`."""
    detail: str = ""
    """Why the status is not `ok`: one sentence written by the sandbox."""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SandboxIdentity:
    """Everything that determines the results of a program: under the same identity, a program always has the same
    result. `backend` names the layers, `python` the version, and `machine` the architecture.
    """

    backend: str
    python: str
    machine: str
    libraries: dict[str, str]
    """Version of each third-party library that a program may import; libraries that are not installed are absent."""
    hash_seed: int = 0
    random_seed: int = 0
    locale: str = "C.UTF-8"
    time_zone: str = "UTC"
    threads: int = 1

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LayerReport:
    """The layers that this machine's kernel can enforce, determined by starting the sandbox and attacking it."""

    layers: dict[str, bool]
    """Whether each layer works."""
    backend: str
    """The strongest tier that works, or "none"."""
    safe: bool
    """Whether the machine can isolate programs."""
    reasons: list[str] = field(default_factory=list)
    """Why a layer is missing, or why no program can run."""
    timed_out: bool = False
    """Whether the sandbox did not start in time; the layers were then not tested."""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON types: a part of what `sandbox check --json` prints."""
        return asdict(self)


class SandboxError(Exception):
    """An error for the user: `message` says what happened, `fix` what to do, `exit_code` is the command's exit code."""

    exit_code = 3

    def __init__(self, message: str, fix: str = "", exit_code: int = 3) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.fix}" if self.fix else self.message
