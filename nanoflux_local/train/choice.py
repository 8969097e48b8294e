"""The choice of a run's examples: by the reason they were kept, by quality level, by an SQL expression, and by number.

Owns the query over the ledger and its record. It reads through a view that cannot write; a choice that matches no
example is an error.
"""

import random
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from nanoflux_local.errors import LedgerError, NothingMatchedError, RefusedError, UsageError
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.records import derive_seed, digest
from nanoflux_local.transcript import Example

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Choice:
    """Conditions on examples; all must hold. `where` is an SQL expression over the table `examples` and may contain
    sub-queries; `size` of the matching rows are drawn by `seed` and kept in turn order. Empty or 0 sets no condition.
    """

    reason: str = ""
    level: int = 0
    where: str = ""
    size: int = 0
    seed: int = 0

    def query(self, run: str) -> tuple[str, tuple[object, ...]]:
        """The SQL and its values. A line break ends the expression, so that a comment in it ends as well."""
        clauses: list[tuple[str, tuple[object, ...]]] = [("run = ?", (run,))]
        if self.reason:
            clauses.append(("reason = ?", (self.reason,)))
        if self.level:
            clauses.append(("level = ?", (self.level,)))
        if self.where:
            clauses.append((f"({self.where}\n)", ()))
        sql = "SELECT * FROM examples WHERE " + " AND ".join(clause for clause, _ in clauses) + " ORDER BY turn"
        return sql, tuple(value for _, values in clauses for value in values)

    def draw(self, items: Sequence[Item]) -> list[Item]:
        """`size` of the items in their order; all of them if it is 0.

        Raises:
            NothingMatchedError: there are fewer items than `size`.
        """
        if self.size > len(items):
            raise NothingMatchedError(
                f"{self.size} examples are requested, but only {len(items)} match the other conditions",
                "lower --size, or drop a condition",
            )
        taken = random.Random(derive_seed(self.seed, "choice")).sample(range(len(items)), self.size or len(items))
        return [items[index] for index in sorted(taken)]


def choose_examples(view: LedgerView, run: str, choice: Choice) -> tuple[list[Example], dict[str, Any]]:
    """The chosen examples of a run, and the record of the choice; raises like `choose_rows`."""
    rows, record = choose_rows(view, run, choice)
    return [example_of(row) for row in rows], record


def example_of(row: Mapping[str, Any]) -> Example:
    return Example(row["turn"], row["question"], row["solution"], row["answer"], row["reason"])


def choose_rows(view: LedgerView, run: str, choice: Choice) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chosen rows of `examples` in turn order, and the record of the choice: the query, its values, how many rows
    match, and the digest of the chosen ids.

    Raises:
        NothingMatchedError: no example matches, or fewer than its size.
        RefusedError: a quality level is requested, and the run's examples have none.
        UsageError: the expression is not valid SQL over the ledger.
    """
    _require_levels(view, run, choice)
    sql, values = choice.query(run)
    rows = _select_rows(view, sql, values)
    if not rows:
        fix = f"see `nanoflux run show {run}` and `nanoflux examples list {run}`"
        raise NothingMatchedError(f"no example of run {run} matches: {sql} {list(values)}", fix)
    drawn_rows = choice.draw(rows)
    record = {
        "query": sql,
        "values": list(values),
        "matched": len(rows),
        "size": choice.size,
        "seed": choice.seed,
        "rows": len(drawn_rows),
        "ids_digest": digest([row["id"] for row in drawn_rows]),
    }
    return [dict(row) for row in drawn_rows], record


def _select_rows(view: LedgerView, sql: str, values: Sequence[object]) -> list[sqlite3.Row]:
    fix = "use the columns id, turn, reason, question, solution, answer, content_hash, at, level"
    try:
        return list(view.rows(sql, *values))
    except (LedgerError, sqlite3.Warning) as error:
        cause = error.__cause__ or error
        if not isinstance(cause, sqlite3.OperationalError | sqlite3.ProgrammingError | sqlite3.Warning):
            raise
        raise UsageError(f"--where is not a valid SQL expression: {cause}", fix) from error


def _require_levels(view: LedgerView, run: str, choice: Choice) -> None:
    if choice.level and not view.row("SELECT 1 FROM examples WHERE run = ? AND level IS NOT NULL", run):
        raise RefusedError(
            f"the examples of run {run} have no quality levels: their reasoning was not scored",
            "choose by --reason or --where",
        )
