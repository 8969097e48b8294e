"""An attack: a program, and the sign of its success, seen from outside the program."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

WALL_S = 0.7
"""The wall limit of every attack: what still runs then has taken more than its share of time."""


@dataclass(frozen=True)
class Seen:
    """What an attack left behind. `late`: it was still running at its limit, so that only a kill ended it."""

    stdout: str
    late: bool
    verdict: str
    """`right` where whoever runs the program took its answer for the expected one, 42."""
    changes: list[str]
    """What changed in the world: files made, changed or gone, messages received, the victim ended."""


def token_printed(seen: Seen) -> bool:
    """The program found out by itself that it got through."""
    return "BREACH" in seen.stdout


def secret_printed(seen: Seen) -> bool:
    """The program got hold of what only a file of the host holds."""
    return "the secret of the host" in seen.stdout


def changed(seen: Seen) -> bool:
    """The world is not what it was."""
    return bool(seen.changes)


def outlasted(seen: Seen) -> bool:
    """Nothing but the kill ended it."""
    return seen.late


def judged_right(seen: Seen) -> bool:
    """Its wrong answer was taken for the right one."""
    return seen.verdict == "right"


@dataclass(frozen=True)
class Attack:
    """A program that runs after `W`, the dict of `World.words`, was defined."""

    name: str
    code: str
    success: Callable[[Seen], bool] = token_printed
    status: tuple[str, ...] = ()
    """How it must end in the sandbox; empty: any way."""
    judged: bool = False
    """Whether its plain run is inside a naive judge, which compares in the process of the program."""
    limits: dict[str, Any] = field(default_factory=dict)

    def source(self, words: dict[str, Any]) -> str:
        """The whole program, for a world of these words."""
        return f"W = {words!r}\n{self.code}"
