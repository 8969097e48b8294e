"""Human reviews of the judge's decisions: reviews of single examples, blind reviews of many questions, and the
agreement of both with the judge.

A blind export contains questions that the judge accepted and questions that it rejected, shuffled and without verdicts,
so that the agreement can be compared with chance. Reviews are never changed: if one person reviews a question several
times, the newest review counts.
"""

import getpass
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanoflux_local.errors import DataError, NothingMatchedError
from nanoflux_local.evaluate.agreement import ReviewAgreement, ReviewerAgreement, cohen_kappa
from nanoflux_local.files import write_new
from nanoflux_local.ledger.store import Ledger
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.paths import Home
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import derive_seed, digest, storable
from nanoflux_local.text_files import EncodingError, read_utf8

ReviewVerdict = Literal["keep", "drop", "fix"]
VERDICTS: tuple[ReviewVerdict, ...] = ("keep", "drop", "fix")
WITHDRAWN = "open"
"""The verdict that withdraws a reviewer's earlier verdict. The earlier verdict stays in the ledger."""
MAX_NOTE_CHARACTERS = 10_000
"""A longer note is truncated to this number of characters."""
AttemptKey = tuple[int, int]
"""The numbers of a turn and of an attempt in it."""
ReviewByReviewer = dict[str, dict[str, Any]]
"""The newest review of each reviewer, with the keys "verdict", "note", "blind" and "at"."""


@dataclass(frozen=True, slots=True)
class JudgedQuestion:
    """A question that the judge accepted or rejected, under an id that does not reveal the verdict."""

    id: str
    run: str
    turn: int
    attempt: int
    accepted: bool
    question: str
    solution: str
    answer: str


def list_judged_questions(view: LedgerView, run: str) -> Iterator[JudgedQuestion]:
    """Every question of a run on which the judge gave a verdict, in turn order."""
    for record in view.turn_records(run):
        for attempt in record.attempts:
            if attempt.attack is None or attempt.validation is None or not attempt.validation.asked:
                continue
            attack = attempt.attack
            question_id = digest([run, record.number, attempt.number])[:16]
            yield JudgedQuestion(
                question_id, run, record.number, attempt.number, attempt.validation.positive,
                attack.question, attack.solution, attack.answer,
            )  # fmt: skip


def default_reviewer() -> str:
    """The reviewer's name if the user passes none: the name of the user's account."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        return "me"


@dataclass(frozen=True, slots=True)
class RecordedReview:
    """A person's verdict on an example, as it was stored."""

    example: str
    run: str
    verdict: str
    note: str
    reviewer: str


def record_review(
    home: Home, example: str, verdict: ReviewVerdict | Literal["open"], note: str = "", reviewer: str = ""
) -> RecordedReview:
    """Record a person's verdict on one example.

    Raises:
        NothingMatchedError: the example is unknown.
    """
    with LedgerView(home.ledger) as view:
        row = view.row("SELECT id, run, turn FROM examples WHERE id = ?", example)
        if row is None:
            raise NothingMatchedError(
                f"no example {example!r} in this home", "list a run's examples with `nanoflux examples list RUN`"
            )
        turn_row = view.row("SELECT attempts FROM turns WHERE run = ? AND number = ?", row["run"], row["turn"])
        assert turn_row is not None, "every example has a turn"
    stored_note = storable(note)[:MAX_NOTE_CHARACTERS]
    reviewer = reviewer or default_reviewer()
    last_attempt_number = len(turn_row["attempts"].split()) - 1  # the column has one outcome for each attempt
    review = (row["turn"], last_attempt_number, verdict, stored_note)
    with Ledger(home.ledger) as ledger:
        ledger.add_reviews(row["run"], [review], reviewer, blind=False)
    return RecordedReview(row["id"], row["run"], verdict, stored_note, reviewer)


@dataclass(frozen=True, slots=True)
class BlindExport:
    """A file with questions of a run for a blind review."""

    run: str
    questions: int
    file: str


def export_blind(home: Home, run: str, out: Path, size: int = 0, seed: int = 0) -> BlindExport:
    """Write `size` of a run's judged questions (all if 0), shuffled with `seed`, to the file `out` as JSON lines.

    Raises:
        NothingMatchedError: the run has no judged questions, or fewer than `size`.
        UsageError: the file exists.
    """
    with LedgerView(home.ledger) as view:
        judged_questions = list(list_judged_questions(view, view.find_run(run)["id"]))
    if not judged_questions or size > len(judged_questions):
        size_note = f", but {size} {'is' if size == 1 else 'are'} requested" if size else ""
        questions = format_quantity(len(judged_questions), "judged question")
        raise NothingMatchedError(f"run {run} has {questions}{size_note}", "lower --size, or continue the run")
    rng = random.Random(derive_seed(seed, "blind"))
    chosen_questions = rng.sample(judged_questions, size if size else len(judged_questions))
    rows = [
        {"id": judged.id, "question": judged.question, "solution": judged.solution, "answer": judged.answer,
         "verdict": "", "note": ""}
        for judged in chosen_questions
    ]  # fmt: skip
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_new({out: "".join(lines).encode()})
    return BlindExport(judged_questions[0].run, len(rows), str(out))


@dataclass(frozen=True, slots=True)
class BlindImport:
    """The result of importing a review file: the number of imported verdicts (`taken`), the number of lines without a
    verdict (`open`), and the reviewed runs.
    """

    reviewer: str
    taken: int
    open: int
    runs: list[str]


def import_blind(home: Home, path: Path, reviewer: str = "") -> BlindImport:
    """Import a filled-in review file, completely or not at all; lines without a verdict are only counted.

    Raises:
        DataError: a line cannot be read, its question is unknown, or it contradicts an earlier line; the message names
            the line.
    """
    rows = _read_filled_rows(path)
    _refuse_contradictions(path, rows)
    question_ids = {row["id"] for _, row in rows}
    with LedgerView(home.ledger) as view:
        run_ids = [row["id"] for row in view.rows("SELECT id FROM runs")]
        judged_questions = [judged for run in run_ids for judged in list_judged_questions(view, run)]
    judged_by_id = {judged.id: judged for judged in judged_questions if judged.id in question_ids}
    reviews_by_run: dict[str, list[tuple[int, int, str, str]]] = {}
    for line_number, row in rows:
        if row["id"] not in judged_by_id:
            raise DataError(
                f"{path}, line {line_number}: no question with the id {row['id']!r} in this home",
                "pass the home of its run with --home",
            )
        if row["verdict"]:
            judged = judged_by_id[row["id"]]
            note = storable(row.get("note") or "")[:MAX_NOTE_CHARACTERS]
            reviews_by_run.setdefault(judged.run, []).append((judged.turn, judged.attempt, row["verdict"], note))
    reviewer = reviewer or default_reviewer()
    with Ledger(home.ledger) as ledger:
        for run, reviews in reviews_by_run.items():
            ledger.add_reviews(run, reviews, reviewer, blind=True)
    taken = sum(len(reviews) for reviews in reviews_by_run.values())
    return BlindImport(reviewer, taken, len(rows) - taken, sorted(reviews_by_run))


def _read_filled_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a review file, each with its line number. Blank lines are skipped."""
    try:
        lines = read_utf8(path).splitlines()
    except (OSError, EncodingError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: {problem}", "pass the filled-in review file") from error
    numbered_rows: list[tuple[int, dict[str, Any]]] = []
    for line_number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{path}, line {line_number}: not JSON", "correct the line; nothing was imported") from None
        has_keys = isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("id", "verdict"))
        if not has_keys or row["verdict"] not in ("", *VERDICTS):
            fix = f"set verdict to one of {', '.join(VERDICTS)}, or leave it empty; nothing was imported"
            raise DataError(f"{path}, line {line_number}: `id` or `verdict` is missing or invalid", fix)
        if not isinstance(row.get("note") or "", str):
            fix = "set note to a string, or leave it empty; nothing was imported"
            raise DataError(f"{path}, line {line_number}: `note` is not a string", fix)
        numbered_rows.append((line_number, row))
    return numbered_rows


def _refuse_contradictions(path: Path, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Raise DataError if two lines have different verdicts on the same question."""
    first_line_by_id: dict[str, tuple[int, str]] = {}
    for line_number, row in rows:
        if not row["verdict"]:
            continue
        first_line_number, first_verdict = first_line_by_id.setdefault(row["id"], (line_number, row["verdict"]))
        if row["verdict"] != first_verdict:
            raise DataError(
                f"{path}, line {line_number}: the verdict on {row['id']!r} is {row['verdict']!r}, but it is "
                f"{first_verdict!r} in line {first_line_number}",
                "keep one of the two lines; nothing was imported",
            )


def load_reviews(view: LedgerView, run: str) -> dict[AttemptKey, ReviewByReviewer]:
    """The newest review by each reviewer, by attempt. Attempts whose reviews were all withdrawn are left out."""
    reviews_by_attempt: dict[AttemptKey, ReviewByReviewer] = {}
    columns = "turn, attempt, reviewer, verdict, note, blind, at"
    for row in view.rows(f"SELECT {columns} FROM reviews WHERE run = ? ORDER BY id", run):
        reviews = reviews_by_attempt.setdefault((row["turn"], row["attempt"]), {})
        if row["verdict"] == WITHDRAWN:
            reviews.pop(row["reviewer"], None)
            continue
        review = {"verdict": row["verdict"], "note": row["note"], "blind": bool(row["blind"]), "at": row["at"]}
        reviews[row["reviewer"]] = review
    return {attempt_key: reviews for attempt_key, reviews in reviews_by_attempt.items() if reviews}


def summarize_agreement(view: LedgerView, run: str) -> ReviewAgreement | None:
    """Each reviewer's agreement with the judge (`review` in `run show --json`): "keep" agrees with an acceptance,
    "drop" and "fix" with a rejection. None if the run has no reviews.
    """
    reviews_by_attempt = load_reviews(view, run)
    if not reviews_by_attempt:
        return None
    accepted_by_attempt = {
        (judged.turn, judged.attempt): judged.accepted for judged in list_judged_questions(view, run)
    }
    reviewers = sorted({reviewer for reviews in reviews_by_attempt.values() for reviewer in reviews})
    return ReviewAgreement(
        {reviewer: _compare_with_judge(reviewer, reviews_by_attempt, accepted_by_attempt) for reviewer in reviewers}
    )


def _compare_with_judge(
    reviewer: str, reviews_by_attempt: dict[AttemptKey, ReviewByReviewer], accepted_by_attempt: dict[AttemptKey, bool]
) -> ReviewerAgreement:
    """The agreement of a reviewer with the judge, over the attempts that both decided."""
    verdict_by_attempt = {
        attempt_key: reviews[reviewer]["verdict"]
        for attempt_key, reviews in reviews_by_attempt.items()
        if reviewer in reviews
    }
    decision_pairs: Sequence[tuple[bool, bool]] = [
        (accepted_by_attempt[attempt_key], verdict == "keep")
        for attempt_key, verdict in verdict_by_attempt.items()
        if attempt_key in accepted_by_attempt
    ]
    kappa_and_interval = cohen_kappa(decision_pairs)
    kappa, ci95 = (None, None) if kappa_and_interval is None else kappa_and_interval
    verdicts = list(verdict_by_attempt.values())
    return ReviewerAgreement(
        reviewed=len(decision_pairs),
        keep=verdicts.count("keep"),
        drop=verdicts.count("drop"),
        fix=verdicts.count("fix"),
        agree=sum(judge_accepts == reviewer_keeps for judge_accepts, reviewer_keeps in decision_pairs),
        kappa=kappa,
        ci95=ci95,
    )
