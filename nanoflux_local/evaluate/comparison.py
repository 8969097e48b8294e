"""Comparisons of finished evaluations, item by item: paired tests, Holm's correction, what could have been found.

Only the same items are ever compared. What one side could not score is left out on both, and counted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanoflux_local.errors import NothingMatchedError, RefusedError, UsageError
from nanoflux_local.evaluate.evaluation import PARTIAL, describe_partial, is_whole
from nanoflux_local.evaluate.statistics import compare_paired, holm, paired_t
from nanoflux_local.ledger.views import LedgerView

Marks = Mapping[str, Sequence[bool]]
"""Items with one mark for each repeat that was scored."""


@dataclass(frozen=True, slots=True)
class Marked:
    """One side of a comparison: its marks, the accuracy of each of its runs, and which items were asked."""

    name: str
    marks: Marks
    by_run: tuple[float, ...] = ()
    items: str = ""


def compare(view: LedgerView, evaluations: Sequence[str], partial: bool = False) -> dict[str, Any]:
    """Paired tests between all pairs of evaluations; Holm's correction over the pairs of this call.

    Evaluations that lack replies are refused unless `partial`: what they lack is left out on both sides then.

    Raises:
        NothingMatchedError: an evaluation is unknown or not finished.
        UsageError: fewer than two, or their items differ, or there is only one item.
        RefusedError: an evaluation is partial.
    """
    if len(set(evaluations)) < 2:
        raise UsageError(
            "a comparison needs two different evaluations", "take their ids from the output of `nanoflux eval`"
        )
    sides = [marked(view, name, partial) for name in dict.fromkeys(evaluations)]
    return {"pairs": with_holm([pair(a, b) for index, a in enumerate(sides) for b in sides[index + 1 :]])}


def pair(a: Marked, b: Marked) -> dict[str, Any]:
    """One pair of `compare --json`, b minus a, all but Holm's p.

    Raises:
        UsageError: the items differ, or there is only one.
    """
    shared = sorted(a.marks.keys() & b.marks.keys())
    asked = a.marks.keys() | b.marks.keys()
    same = a.items == b.items if a.items and b.items else len(shared) == len(asked)
    if not same or not shared:
        raise UsageError(
            f"evaluations {a.name} and {b.name} have different items", "evaluate both with the same --data and --limit"
        )
    if len(shared) == 1:
        raise UsageError(
            f"evaluations {a.name} and {b.name} share only one item, too few for a test", "evaluate at least two items"
        )
    found = compare_paired([a.marks[item] for item in shared], [b.marks[item] for item in shared])
    over_runs = paired_t(a.by_run, b.by_run) if len(a.by_run) == len(b.by_run) else None
    return {
        "a": a.name,
        "b": b.name,
        **asdict(found),
        "ci95": list(found.ci95),
        "paired_t_p": over_runs.p if over_runs else None,
        "left_out": len(asked) - len(shared),
    }


def with_holm(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs with Holm's p over all of them."""
    adjusted = holm([float(found["mcnemar_p"]) for found in pairs])
    return [{**found, "holm_p": p} for found, p in zip(pairs, adjusted, strict=True)]


def marked(view: LedgerView, evaluation: str, partial: bool = False) -> Marked:
    """A finished evaluation's side of a comparison.

    Raises:
        NothingMatchedError: it is unknown or not finished.
        RefusedError: it lacks replies, and `partial` was not asked for.
    """
    row = view.row("SELECT status, settings, result FROM evaluations WHERE id = ?", evaluation)
    if row is None or row["status"] not in ("done", PARTIAL):
        raise NothingMatchedError(f"no finished evaluation {evaluation!r} in this home", "run `nanoflux eval` first")
    result = json.loads(row["result"])
    if not partial and not is_whole(result):
        raise RefusedError(
            f"evaluation {evaluation} is partial: {describe_partial(result)}",
            "complete it with the same `nanoflux eval` command, or compare the scored items with --partial",
        )
    marks: dict[str, list[bool]] = {}
    rows = view.rows(
        "SELECT item, verdict FROM evaluation_items WHERE evaluation = ? AND verdict <> 'unscored'"
        " ORDER BY item, repeat",
        evaluation,
    )
    for item in rows:
        marks.setdefault(item["item"], []).append(item["verdict"] == "right")
    return Marked(evaluation, marks, tuple(result.get("by_run", ())), json.loads(row["settings"]).get("items", ""))
