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
    """The targets in the `World` that were changed: files that were created, changed or deleted, sockets that received
    a message, and the victim if it ended.
    """


def printed_token(effects: Effects) -> bool:
    """Whether the program reported that it succeeded."""
    return "BREACH" in effects.stdout


def printed_secret(effects: Effects) -> bool:
    """Whether the program printed the content of a file of the host."""
    return "the secret of the host" in effects.stdout


def changed_world(effects: Effects) -> bool:
    """Whether the program changed a file, process or socket of the host's `World`."""
    return bool(effects.changes)


def needed_a_kill(effects: Effects) -> bool:
    """Whether the program ended only when it was killed."""
    return effects.late


def judged_right(effects: Effects) -> bool:
    """Whether the judge accepted the program's wrong answer."""
    return effects.verdict == "right"


@dataclass(frozen=True)
class Attack:
    """A program that tries to harm its host. Its variable `W` is the dict from `World.describe()`; `success` says from
    the effects whether the attack succeeded, and `limits` are its `Limits` if they are not the defaults.
    """

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
