"""The steps of an attempt that ask a model, and how a call is assigned to its step.

The ledger does not store for which turn a call was made. However, the seed in its request is derived from the run's
seed, the turn, the attempt and the step (see `roles.base.Draw`). A call therefore belongs to the step from which its
seed can be derived.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanoflux_local.records import derive_seed

DrawKey = tuple[str | int, ...]
"""Identifies one random seed of an attempt: the name of the draw, the number of the retry and, from the second answer
on, the number of the answer.
"""


@dataclass(frozen=True, slots=True)
class TurnStep:
    """One step of an attempt: its name, the role or check that it belongs to, the endpoint that is asked ("" if the
    turn's record names the endpoint), and, as `action`, what that endpoint's model does. `draws` are the keys of the
    seeds of all requests that the step may send. `milestones` are the keys of those requests whose reply ends the step,
    unless the reply is unreadable or not confident enough.
    """

    name: str
    role: str
    endpoint: str
    action: str
    draws: tuple[DrawKey, ...]
    milestones: tuple[DrawKey, ...]


@dataclass(frozen=True, slots=True)
class TurnInProgress:
    """A turn in progress: the numbers of the turn and of its current attempt, and how many of the attempt's steps have
    been answered.
    """

    turn: int
    attempt: int
    answered: int


@dataclass(frozen=True, slots=True)
class CallOrigin:
    """The attempt and the step for which a call was made."""

    attempt: int
    step: TurnStep


def derive_origins(steps: Sequence[TurnStep], run_seed: int, turn: int, attempts: int) -> dict[int, CallOrigin]:
    """The seeds of all requests that a turn with this number of attempts may send, each with its origin."""
    return {
        derive_seed(run_seed, turn, attempt, *draw): CallOrigin(attempt, step)
        for attempt in range(attempts)
        for step in steps
        for draw in step.draws
    }


def derive_milestones(
    steps: Sequence[TurnStep], run_seed: int, turn: int, attempts: int
) -> Iterator[tuple[int, TurnInProgress]]:
    """The seeds of the requests whose replies end a step, each with the progress that such a reply shows."""
    for attempt in range(attempts):
        for answered, step in enumerate(steps, 1):
            for draw in step.milestones:
                yield derive_seed(run_seed, turn, attempt, *draw), TurnInProgress(turn, attempt, answered)
