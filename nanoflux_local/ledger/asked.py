"""What other runs asked: a run can be held novel against them too (`RunConfig.novel_against`).

Of each it freezes how many turns counted and the hash of their questions. Turns are only ever added, so a run that goes
on changes nothing for whoever was held against its beginning.
"""

import json
from collections.abc import Iterable, Iterator, Mapping

from nanoflux_local.config import FrozenQuestions
from nanoflux_local.errors import NothingMatchedError, RefusedError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import digest


def freeze(view: LedgerView, runs: Iterable[str]) -> dict[str, FrozenQuestions]:
    """What these runs have asked so far, by their ids.

    Raises:
        NothingMatchedError: there is no such run, or it has asked nothing yet.
    """
    frozen = {}
    for name in runs:
        run = view.find_run(name)["id"]
        row = view.row("SELECT count(*) AS turns FROM turns WHERE run = ?", run)
        turns = row["turns"] if row else 0
        questions = list(questions_of(view, run, turns))
        if not questions:
            raise NothingMatchedError(f"run {run} has asked nothing yet", "let it play some turns, or leave it out")
        frozen[run] = FrozenQuestions(turns=turns, questions=digest(questions))
    return frozen


def load_questions(view: LedgerView, frozen: Mapping[str, FrozenQuestions]) -> tuple[str, ...]:
    """The questions that were frozen, run by run.

    Raises:
        RefusedError: a run is gone, or did not ask them.
    """
    earlier: list[str] = []
    for run, asked in frozen.items():
        questions = list(questions_of(view, run, asked.turns))
        if digest(questions) != asked.questions:
            raise RefusedError(
                f"run {run} did not ask the questions that this run is held against",
                f"see `nanoflux run verify {run}`, restore a backup, or start a new run",
            )
        earlier += questions
    return tuple(earlier)


def questions_of(view: LedgerView, run: str, turns: int) -> Iterator[str]:
    """The questions of a run's first turns that passed parsing, kept or not (SPEC §6)."""
    for row in view.rows("SELECT record FROM turns WHERE run = ? AND number < ? ORDER BY number", run, turns):
        try:
            attempts = json.loads(row["record"])["attempts"]
        except (ValueError, LookupError):
            continue  # damaged: what is missing then shows in the hash
        yield from (attempt["attack"]["question"] for attempt in attempts if attempt["attack"])
