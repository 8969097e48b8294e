"""Chooses examples of a run: by the reason for keeping them, by quality level, by an SQL expression, and by number.

This module builds the query over the ledger, executes it through a read-only view, and records it. Examples that a
reviewer dropped, or that lack a solution of the requested origin, are left out and counted. Examples that a reviewer
marked `fix` are included and counted. A choice without examples is an error.
"""

import json
import random
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from nanoflux_local.errors import LedgerError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import derive_seed, digest
from nanoflux_local.train.solutions import RightSolution, SolutionRule, collect_right_solutions, list_candidates
from nanoflux_local.transcript import Attempt, Example, turn_from_json

Item = TypeVar("Item")
_QUOTED_TEXT = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]""")
"""Matches a string or a quoted name in SQL."""
_EXPRESSION_ERRORS = (sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.Warning)
"""What SQLite raises for an expression that it cannot parse or evaluate. A damaged file raises other errors."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Conditions on examples, all of which must hold; "" and 0 set no condition. `where` is an SQL expression over the
    table `examples` and may contain sub-queries, but no comment and no semicolon. Of the matching rows, `size` are
    drawn by `seed` and kept in turn order.

    `solution` determines which solution of an example is trained on; an example without a solution of the required
    origin does not match. Examples that a reviewer dropped match only with `include_dropped`.
    """

    reason: str = ""
    level: int = 0
    where: str = ""
    size: int = 0
    seed: int = 0
    solution: SolutionRule = "author"
    include_dropped: bool = False

    def build_query(self, run: str) -> tuple[str, tuple[object, ...]]:
        """The SQL and its parameters. The SQL is part of the ids of training runs, so its form must not change.

        Raises:
            UsageError: `where` is not one complete expression, so it could change the other conditions.
        """
        conditions: list[str] = ["run = ?"]
        parameters: list[object] = [run]
        if self.reason:
            conditions.append("reason = ?")
            parameters.append(self.reason)
        if self.level:
            conditions.append("level = ?")
            parameters.append(self.level)
        if self.where:
            _refuse_incomplete_expression(self.where)
            conditions.append(f"({self.where}\n)")
        return f"SELECT * FROM examples WHERE {' AND '.join(conditions)} ORDER BY turn", tuple(parameters)

    def draw(self, items: Sequence[Item]) -> list[Item]:
        """Draw `size` of the items and keep their order; all items if `size` is 0.

        Raises:
            NothingMatchedError: there are fewer items than `size`.
        """
        if self.size > len(items):
            request = f"{format_quantity(self.size, 'example')} {'is' if self.size == 1 else 'are'} requested"
            verb = "matches" if len(items) == 1 else "match"
            raise NothingMatchedError(
                f"{request}, but only {len(items)} {verb} the other conditions",
                "lower --size, or drop a condition",
            )
        count = self.size if self.size else len(items)
        positions = random.Random(derive_seed(self.seed, "choice")).sample(range(len(items)), count)
        return [items[index] for index in sorted(positions)]


class KeptAttempt(NamedTuple):
    """The kept attempt of a turn, and the names of the endpoints that attacked and defended."""

    attempt: Attempt
    attacker: str
    defender: str


def build_example(row: Mapping[str, Any]) -> Example:
    """The example in a row of the table `examples`."""
    return Example(row["turn"], row["question"], row["solution"], row["answer"], row["reason"])


def choose_rows(view: LedgerView, run: str, choice: Choice) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chosen rows of `examples` in turn order, and the record of the choice: the query, its values, how many rows
    match, and the digest of the chosen ids.

    Raises:
        NothingMatchedError: no example matches, or fewer match than `size` requests.
        RefusedError: a quality level is requested, and the run's examples have none.
        UsageError: the expression is not valid SQL over the ledger.
    """
    _require_levels(view, run, choice)
    sql, values = choice.build_query(run)
    matching_rows = _select_rows(view, sql, values)
    if not matching_rows:
        fix = f"see `nanoflux run show {run}` and `nanoflux examples list {run}`"
        raise NothingMatchedError(f"no example of run {run} matches: {sql} {list(values)}", fix)
    eligible_rows, exclusions = _exclude_rows(view, run, choice, matching_rows)
    drawn_rows = choice.draw(eligible_rows)
    record = {
        "query": sql,
        "values": list(values),
        "matched": len(eligible_rows),
        "size": choice.size,
        "seed": choice.seed,
        "rows": len(drawn_rows),
        "ids_digest": digest([row["id"] for row in drawn_rows]),
        **exclusions,
    }
    turns_to_fix = find_turns_with_verdict(view, run, "fix")
    fix_count = sum(row["turn"] in turns_to_fix for row in drawn_rows)
    if fix_count:
        record["fix"] = {"rows": fix_count}
    return [dict(row) for row in drawn_rows], record


def _exclude_rows(
    view: LedgerView, run: str, choice: Choice, rows: Sequence[sqlite3.Row]
) -> tuple[list[sqlite3.Row], dict[str, Any]]:
    """The rows that reviewers have not dropped and that have a solution of the requested origin, and a record of the
    numbers of rows left out. If reviewers dropped no row and the solution is the author's, the record is empty, so that
    the ids of earlier training runs stay valid.
    """
    record: dict[str, Any] = {}
    dropped_turns = find_turns_with_verdict(view, run, "drop")
    kept_rows = [row for row in rows if choice.include_dropped or row["turn"] not in dropped_turns]
    dropped_count = sum(row["turn"] in dropped_turns for row in rows)
    if dropped_count:
        record["dropped"] = {"included": choice.include_dropped, "rows": dropped_count}
    if not kept_rows:
        fix = "add --include-dropped, or withdraw the verdicts with `nanoflux examples review ID --verdict open`"
        examples = "the only matching example" if len(rows) == 1 else f"all {len(rows)} matching examples"
        raise NothingMatchedError(f"reviewers dropped {examples} of run {run}", fix)
    if choice.solution == "author":
        return kept_rows, record
    solutions_by_turn = load_solutions(view, run)
    rows_with_solution = [row for row in kept_rows if list_candidates(solutions_by_turn[row["turn"]], choice.solution)]
    record["solution"] = {"rule": choice.solution, "without": len(kept_rows) - len(rows_with_solution)}
    if not rows_with_solution:
        fix = "choose another --solution; the check `blind` and --set samples=N record further solutions"
        raise NothingMatchedError(f"no matching example of run {run} has a {choice.solution} solution", fix)
    return rows_with_solution, record


def find_turns_with_verdict(view: LedgerView, run: str, verdict: Literal["drop", "fix"]) -> set[int]:
    """The turns whose example has `verdict` as the newest verdict of at least one reviewer."""
    newest_verdicts = view.rows(  # SQLite takes the columns without an aggregate from the row with max(id)
        "SELECT turn, attempt, verdict, max(id) FROM reviews WHERE run = ? GROUP BY turn, attempt, reviewer", run
    )
    reviewed_attempts = {(row["turn"], row["attempt"]) for row in newest_verdicts if row["verdict"] == verdict}
    if not reviewed_attempts:
        return set()
    turns_with_verdict = set()
    for row in view.rows("SELECT number, attempts FROM turns WHERE run = ? AND kept", run):
        kept_attempt = len(row["attempts"].split()) - 1  # the turn's last attempt; reviews number attempts from 0
        if (row["number"], kept_attempt) in reviewed_attempts:
            turns_with_verdict.add(row["number"])
    return turns_with_verdict


def load_attempts(view: LedgerView, run: str) -> dict[int, KeptAttempt]:
    """The kept attempt of each turn with an example, by the number of the turn."""
    turns = [
        turn_from_json(json.loads(row["record"]))
        for row in view.rows("SELECT record FROM turns WHERE run = ? AND kept ORDER BY number", run)
    ]
    return {turn.number: KeptAttempt(turn.last_attempt, turn.attacker, turn.defender) for turn in turns}


def load_solutions(view: LedgerView, run: str) -> dict[int, tuple[RightSolution, ...]]:
    """The right solutions of each turn with an example, by the number of the turn."""
    return {
        turn: collect_right_solutions(kept.attempt, kept.attacker, kept.defender)
        for turn, kept in load_attempts(view, run).items()
    }


def _refuse_incomplete_expression(expression: str) -> None:
    """Raise UsageError if an SQL expression contains a comment or a semicolon, or if its parentheses are unbalanced:
    inside the parentheses of a query, it could end them and change the rest of the query.
    """
    code = _QUOTED_TEXT.sub(" ", expression)
    if any(mark in code for mark in ("--", "/*", ";")):
        raise UsageError(
            "--where is not a valid SQL expression: it contains a comment or a semicolon",
            "write one condition without '--', '/*' and ';', e.g. --where \"turn > 2 AND level >= 3\"",
        )
    depth = 0
    for parenthesis in re.findall(r"[()]", code):
        depth += 1 if parenthesis == "(" else -1
        if depth < 0:
            break
    if depth:
        raise UsageError(
            "--where is not a valid SQL expression: its parentheses are unbalanced",
            "write one condition in which each '(' has its ')'",
        )


def _select_rows(view: LedgerView, sql: str, values: Sequence[object]) -> list[sqlite3.Row]:
    """The rows of a query. Raises UsageError if its `where` expression is not valid SQL."""
    columns = "id, turn, reason, question, solution, answer, content_hash, at, level, passes, tries, pass_rate"
    fix = f"use the columns {columns}"
    try:
        return list(view.rows(sql, *values))
    except (LedgerError, sqlite3.Warning) as error:
        cause = error.__cause__ or error
        if not isinstance(cause, _EXPRESSION_ERRORS):
            raise
        raise UsageError(f"--where is not a valid SQL expression: {cause}", fix) from error


def _require_levels(view: LedgerView, run: str, choice: Choice) -> None:
    """Raise RefusedError if the choice is by quality level and no example of the run has one."""
    if choice.level and not view.row("SELECT 1 FROM examples WHERE run = ? AND level IS NOT NULL", run):
        raise RefusedError(
            f"the examples of run {run} have no quality levels: their reasoning was not scored",
            "choose by --reason or --where",
        )
