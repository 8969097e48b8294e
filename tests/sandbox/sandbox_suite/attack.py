"""An attack: a program, and a test of its success from outside the program."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

WALL_S = 0.7
"""The wall-clock limit of every attack."""


@dataclass(frozen=True)
class Effects:
    """The effects of an attack. `late` means that the program still ran at its time limit and had to be killed."""

    stdout: str
    late: bool
    verdict: str
    """`right` if the judge accepted the program's answer as the expected one, 42."""
    changes: list[str]
    """Changes in the `World`: files created, changed or deleted, sockets that received a message, the victim ended."""


def printed_token(effects: Effects) -> bool:
    """The program reported that it succeeded."""
    return "BREACH" in effects.stdout


def printed_secret(effects: Effects) -> bool:
    """The program printed the content of a file of the host."""
    return "the secret of the host" in effects.stdout


def changed_world(effects: Effects) -> bool:
    """The program changed a file, process or socket of the host's `World`."""
    return bool(effects.changes)


def needed_a_kill(effects: Effects) -> bool:
    """The program ended only when it was killed."""
    return effects.late


def judged_right(effects: Effects) -> bool:
    """A wrong answer was accepted."""
    return effects.verdict == "right"


@dataclass(frozen=True)
class Attack:
    """A program whose variable `W` is the dict from `World.describe()`."""

    name: str
    code: str
    success: Callable[[Effects], bool] = printed_token
    statuses: tuple[str, ...] = ()
    """The statuses with which the program may end in the sandbox; empty means any."""
    judged: bool = False
    """Whether the run without a sandbox uses the naive judge, which compares answers inside the program's process."""
    limits: dict[str, Any] = field(default_factory=dict)

    def source(self, world: dict[str, Any]) -> str:
        """The complete program: the code, after an assignment of `world`, a description of the world, to `W`."""
        return f"W = {world!r}\n{self.code}"
