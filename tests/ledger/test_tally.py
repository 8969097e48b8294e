"""The tally infers from the sampling seeds of calls which turns are in progress, for any number of attempts."""

from collections.abc import Callable
from pathlib import Path

from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.tally import Tally
from nanoflux_local.ledger.turn_steps import TurnInProgress, TurnStep
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import ChatReply, ChatRequest, Identity, derive_seed
from nanoflux_local.transcript import TurnRecord

RUN_SEED = 7
STEPS = tuple(
    TurnStep(name, role, endpoint="", action="", draws=((name, 0),), milestones=((name, 0),))
    for name, role in (("attack", "attacker"), ("validation-0", "judge"))
)
"""Two steps of an attempt, with one request each."""


def add_call(ledger: Ledger, turn: int, attempt: int, step: str) -> None:
    """Store a call whose request has the sampling seed of this step."""
    seed = derive_seed(RUN_SEED, turn, attempt, step, 0)
    ledger.remember("run", ChatRequest(Identity("scripted", "m"), (), seed=seed), ChatReply("yes", "stop"))


def test_turns_in_progress_are_those_with_replies_and_the_next_turn(
    ledger: Ledger, path: Path, new_turn: Callable[..., TurnRecord]
) -> None:
    ledger.commit_turn("run", new_turn(0, "invalid", "kept_failed"), [])
    add_call(ledger, 1, 0, "attack")
    add_call(ledger, 1, 8, "validation-0")  # the ninth attempt: more than the default maximum
    add_call(ledger, 5, 0, "attack")
    tally = Tally("run", seed=RUN_SEED, attempts=9, steps=STEPS)
    with LedgerView(path) as view:
        assert not tally.update(view)
        assert list(tally.list_turns_in_progress(2)) == [
            TurnInProgress(1, 8, 2), TurnInProgress(2, 0, 0), TurnInProgress(5, 0, 1)
        ]  # fmt: skip
        ledger.commit_turn("run", new_turn(1, "kept_failed"), [])
        tally.update(view)
    assert list(tally.list_turns_in_progress(1)) == [TurnInProgress(2, 0, 0), TurnInProgress(5, 0, 1)]
