"""An attack: a program, and a test of its success from outside the program."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

WALL_S = 0.7
"""The wall limit of every attack; a program that still runs then has exceeded its time."""


@dataclass(frozen=True)
class Seen:
    """The effects of an attack. `late` means that it still ran at its limit and had to be killed."""

    stdout: str
    late: bool
    verdict: str
    """`right` if the judge accepted the program's answer as the expected one, 42."""
    changes: list[str]
    """Changes in the world: files created, changed or deleted, messages received, the victim ended."""


def token_printed(seen: Seen) -> bool:
    """The program reported that it succeeded."""
    return "BREACH" in seen.stdout


def secret_printed(seen: Seen) -> bool:
    """The program printed the content of a file of the host."""
    return "the secret of the host" in seen.stdout


def changed(seen: Seen) -> bool:
    """The world has changed."""
    return bool(seen.changes)


def outlasted(seen: Seen) -> bool:
    """Only a kill ended the program."""
    return seen.late


def judged_right(seen: Seen) -> bool:
    """A wrong answer was accepted."""
    return seen.verdict == "right"


@dataclass(frozen=True)
class Attack:
    """A program that runs after `W`, the dict of `World.words`, was defined."""

    name: str
    code: str
    success: Callable[[Seen], bool] = token_printed
    status: tuple[str, ...] = ()
    """The statuses with which it may end in the sandbox; empty means any."""
    judged: bool = False
    """Whether its plain run uses the naive judge, which compares in the process of the program."""
    limits: dict[str, Any] = field(default_factory=dict)

    def source(self, words: dict[str, Any]) -> str:
        """The whole program for a world with these facts."""
        return f"W = {words!r}\n{self.code}"
