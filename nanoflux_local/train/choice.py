"""The choice of a run's examples: by the reason they were kept, by quality level, by any query, and how many.

Owns the query over the ledger and what is recorded of it. It reads through a view that cannot write, and a choice that
nothing answers to is told rather than trained on.
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
    """What to take; all that is given must hold. `where` is an SQL expression over the table `examples`, with any
    sub-query; `size` rows are drawn by `seed` from what is left, in turn order. Empty or 0 asks for nothing.
    """

    reason: str = ""
    level: int = 0
    where: str = ""
    size: int = 0
    seed: int = 0

    def query(self, run: str) -> tuple[str, tuple[object, ...]]:
        """The SQL and its values. The expression ends in a line break, so that a comment in it ends there too."""
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
        """`size` of the items, in their order; all of them where it is 0.

        Raises:
            NothingMatchedError: there are fewer.
        """
        if self.size > len(items):
            raise NothingMatchedError(
                f"{self.size} examples are asked for and {len(items)} answer to the rest of the choice",
                "ask for fewer, or choose by less",
            )
        taken = random.Random(derive_seed(self.seed, "choice")).sample(range(len(items)), self.size or len(items))
        return [items[index] for index in sorted(taken)]


def choose(view: LedgerView, run: str, choice: Choice) -> tuple[list[Example], dict[str, Any]]:
    """The chosen examples of a run as they are trained on, and the record of the choice; `select` tells the rest."""
    rows, record = select(view, run, choice)
    return [example_of(row) for row in rows], record


def example_of(row: Mapping[str, Any]) -> Example:
    return Example(row["turn"], row["question"], row["solution"], row["answer"], row["reason"])


def select(view: LedgerView, run: str, choice: Choice) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The chosen rows of `examples` in turn order, and the record of the choice: the query, its values, how many answer
    to it, and the digest of the ids that were taken.

    Raises:
        NothingMatchedError: nothing answers to it, or fewer than its size.
        RefusedError: a quality level is asked for and the run's examples have none.
        UsageError: the expression is no SQL over the ledger.
    """
    _require_levels(view, run, choice)
    sql, values = choice.query(run)
    rows = _select_rows(view, sql, values)
    if not rows:
        fix = f"see `nanoflux run show {run}` and `nanoflux examples list {run}`"
        raise NothingMatchedError(f"no example of run {run} answers to: {sql} {list(values)}", fix)
    taken = choice.draw(rows)
    record = {
        "query": sql,
        "values": list(values),
        "matched": len(rows),
        "size": choice.size,
        "seed": choice.seed,
        "rows": len(taken),
        "ids_digest": digest([row["id"] for row in taken]),
    }
    return [dict(row) for row in taken], record


def _select_rows(view: LedgerView, sql: str, values: Sequence[object]) -> list[sqlite3.Row]:
    fix = "the columns are id, turn, reason, question, solution, answer, content_hash, at, level"
    try:
        return list(view.rows(sql, *values))
    except (LedgerError, sqlite3.Warning) as error:
        cause = error.__cause__ or error
        if not isinstance(cause, sqlite3.OperationalError | sqlite3.ProgrammingError | sqlite3.Warning):
            raise
        raise UsageError(f"--where is no expression over the ledger: {cause}", fix) from error


def _require_levels(view: LedgerView, run: str, choice: Choice) -> None:
    if choice.level and not view.row("SELECT 1 FROM examples WHERE run = ? AND level IS NOT NULL", run):
        raise RefusedError(
            f"the examples of run {run} have no quality levels: their reasoning was not scored",
            "choose by --reason or --where",
        )
