"""The questions of earlier runs from which a new run's questions must differ (`RunConfig.novel_against`).

The new run's configuration records the number of turns of each earlier run and the hash of their questions. Turns are
only ever added to a run, so these questions stay the same when an earlier run continues.
"""

import json
from collections.abc import Iterable, Iterator, Mapping

from nanoflux_local.config import FrozenQuestions
from nanoflux_local.errors import NothingMatchedError, RefusedError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import digest


def freeze_questions(view: LedgerView, runs: Iterable[str]) -> dict[str, FrozenQuestions]:
    """Freeze the questions that these runs have asked so far. `runs` are names, ids or beginnings of ids; the keys of
    the result are ids.

    Raises:
        NothingMatchedError: a run is unknown or has no questions yet.
    """
    frozen_by_run = {}
    for name in runs:
        run = view.find_run(name)["id"]
        count_row = view.row("SELECT count(*) AS turns FROM turns WHERE run = ?", run)
        turns = count_row["turns"] if count_row else 0
        questions = list(read_questions(view, run, turns))
        if not questions:
            raise NothingMatchedError(
                f"run {run} has no questions yet", "wait until it has committed a turn, or leave out --novel-against"
            )
        frozen_by_run[run] = FrozenQuestions(turns=turns, questions=digest(questions))
    return frozen_by_run


def load_questions(view: LedgerView, frozen: Mapping[str, FrozenQuestions]) -> tuple[str, ...]:
    """The frozen questions, run by run.

    Raises:
        RefusedError: a run's questions do not match their hash.
    """
    all_questions: list[str] = []
    for run, frozen_questions in frozen.items():
        questions = list(read_questions(view, run, frozen_questions.turns))
        if digest(questions) != frozen_questions.questions:
            raise RefusedError(
                f"the questions of run {run}, which novel_against names, differ from those recorded at the start",
                f"see `nanoflux run verify {run}`, restore a backup, or start a new run",
            )
        all_questions += questions
    return tuple(all_questions)


def read_questions(view: LedgerView, run: str, turns: int) -> Iterator[str]:
    """The questions of a run's first `turns` turns, from every attempt whose attack could be parsed."""
    for row in view.rows("SELECT record FROM turns WHERE run = ? AND number < ? ORDER BY number", run, turns):
        try:
            attempts = json.loads(row["record"])["attempts"]
        except (ValueError, LookupError):
            continue  # a damaged record; the hash of the questions then does not match
        yield from (attempt["attack"]["question"] for attempt in attempts if attempt["attack"])
