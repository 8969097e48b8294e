"""The words of the sandbox: what may be asked (`Limits`), what comes back (`Result`), what decides it (`Identity`).

Plain frozen records without behaviour beyond checking themselves; every other module speaks in them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["ok", "error", "timeout", "memory", "output", "killed", "unavailable"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one program may use. What is not listed is not adjustable: it gets none of it.

    A program is one process with one thread, three descriptors (an empty input and two pipes) and no file system: it
    can create no process, thread, file or socket, so there is nothing of these to count.
    """

    wall_s: float = 5.0
    """Seconds from the start of the program to its end; past it the status is `timeout`."""
    cpu_s: float | None = None
    """Seconds of processor time, rounded up to whole ones (status `timeout`). None: as `wall_s`."""
    memory_mb: int = 512
    """MiB of address space beyond what the warm interpreter already maps (status `memory`)."""
    output_bytes: int = 256 * 1024
    """Bytes of output and error output together; the rest is cut off and the status is `output`."""
    output_lines: int = 10_000
    """Lines of output and error output together; the rest is cut off and the status is `output`."""
    source_bytes: int = 1024 * 1024
    """Bytes of the program's source in UTF-8; a longer one is not started (status `error`)."""

    def __post_init__(self) -> None:
        """Refuse what no program could live under. Raises ValueError."""
        cpu_s = self.wall_s if self.cpu_s is None else self.cpu_s
        amounts = (self.wall_s, cpu_s, self.memory_mb, self.output_bytes, self.output_lines, self.source_bytes)
        if not all(0 < amount < 2**40 for amount in amounts):
            raise ValueError(f"every limit is a positive, finite amount: {self}")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one program. Only `stdout` and `stderr` hold the program's own words, made harmless to show."""

    status: Status
    exit_code: int | None
    """The program's own exit code; None where it did not end by itself."""
    stdout: str
    stderr: str
    truncated: bool
    """Whether some output was cut off."""
    wall_s: float
    """Seconds that the caller waited, queueing left out."""
    backend: str
    """The layers that held the program, for example `linux:namespaces+landlock+seccomp`."""
    detail: str = ""
    """One sentence of ours on why it did not end well."""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides the results of a program: two sandboxes of equal identity give equal results to the same source."""

    backend: str
    python: str
    machine: str
    libraries: dict[str, str]
    """Version of each third-party library that a program may import; a missing one is absent."""
    hash_seed: int = 0
    random_seed: int = 0
    locale: str = "C.UTF-8"
    time_zone: str = "UTC"
    threads: int = 1

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """What the kernel of this machine can enforce, found by building the sandbox and attacking it."""

    layers: dict[str, bool]
    backend: str
    safe: bool
    reasons: list[str] = field(default_factory=list)
    """Why a layer is missing, or why nothing may run here."""

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON types, with the keys that `sandbox check --json` promises."""
        return asdict(self)


class SandboxError(Exception):
    """A failure to show to the user: `message` says what happened, `fix` what to do, `exit_code` is the command's."""

    exit_code = 3

    def __init__(self, message: str, fix: str = "", exit_code: int = 3) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.fix}" if self.fix else self.message
