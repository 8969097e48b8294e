"""The history of a run: its tally as of any committed turn, computed from the ledger.

Turns can be added to a tally but not removed, so a copy is kept every `COPY_EVERY` turns. The tally as of any other
turn is computed by adding turns to the last copy before it.
"""

import copy
import json
from dataclasses import dataclass

from nanoflux_local.ledger.tally import Tally
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.transcript import TurnRecord, turn_from_json

COPY_EVERY = 250
"""The number of turns between two copies of the tally."""


@dataclass(frozen=True, slots=True)
class RunMoment:
    """The state of a run right after it committed a turn: the tally up to and including that turn, the turn itself, and
    the time of its commit.
    """

    tally: Tally
    turn: TurnRecord
    committed_at: str


class RunHistory:
    """Computes the moments of one run. Committed turns never change, so the stored copies stay valid while the run
    continues.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._copies = {0: Tally(run)}

    def load_moment(self, view: LedgerView, turn: int) -> RunMoment:
        """The state of the run right after it committed turn `turn`.

        Raises:
            NothingMatchedError: the run has not committed that turn.
        """
        row = view.find_turn(self._run, turn)
        tally = self._tally_turns(view, turn + 1)
        tally.read_costs(view, row["at"])
        return RunMoment(tally, turn_from_json(json.loads(row["record"])), row["at"])

    def _tally_turns(self, view: LedgerView, turns: int) -> Tally:
        """The tally of the first `turns` turns. Stores a copy whenever the number of turns reaches a multiple of
        `COPY_EVERY`.
        """
        nearest_copy = max(count for count in self._copies if count <= turns)
        tally = copy.deepcopy(self._copies[nearest_copy])
        while tally.turns < turns:
            next_copy_turns = (tally.turns // COPY_EVERY + 1) * COPY_EVERY
            if not tally.read_turns(view, min(turns, next_copy_turns) - tally.turns):
                break
            if tally.turns == next_copy_turns:
                self._copies[next_copy_turns] = copy.deepcopy(tally)
        return tally
