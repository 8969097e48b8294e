"""Loads the items of an evaluation with their marks and replies, and finds the items that flip between two evaluations.

The command line, the report and the terminal application all follow one rule. Of two evaluations, the **base** is the
evaluation without an adapter if exactly one of them has none, otherwise the first of the two. An item **flips** if its
share of right replies, over its scored repeats, differs between the two evaluations: it is **gained** if the share is
higher than in the base, and **lost** if the share is lower. The paired tests compare the same shares. Items that one
evaluation could not score are left out.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nanoflux_local.errors import NothingMatchedError
from nanoflux_local.ledger.board import StoredEvaluation
from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.views import LedgerView, decode_row
from nanoflux_local.seeds.datasets import load_available_items
from nanoflux_local.suggestions import make_ambiguity_error
from nanoflux_local.transcript import Seed

FLIP_RULE = (
    "An item is gained if its share of right replies over its repeats is higher than in the base evaluation, and lost"
    " if it is lower."
)
"""The rule of `list_flips` in one sentence, for every page that shows flips."""
NO_QUESTION = "(the benchmark is no longer in this home)"
"""The text that is shown in place of a question that is missing."""


@dataclass(frozen=True, slots=True)
class ItemScore:
    """The marks of the item with the id `item`: `right` of `scored` replies are right. `asked` counts all replies,
    including those that could not be scored, and `readings` are the answers read from them.
    """

    item: str
    right: int
    scored: int
    asked: int
    readings: tuple[str, ...]

    @property
    def share(self) -> float | None:
        """The share of right replies; None if no reply was scored."""
        return self.right / self.scored if self.scored else None


@dataclass(frozen=True, slots=True)
class Flip:
    """An item whose share of right replies differs between two evaluations; `base` and `other` are the two shares."""

    item: str
    base: float
    other: float

    @property
    def is_gained(self) -> bool:
        """Whether the other evaluation is better than the base on this item."""
        return self.other > self.base


@dataclass(frozen=True, slots=True)
class ItemReply:
    """One reply to an item: its strict mark, its soft mark ("" if there is no judge), the answer that was read from it,
    and its text.
    """

    repeat: int
    mark: str
    soft: str
    reading: str
    text: str


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """An item with its question (and options), its gold answer ("" if the benchmark is missing), and its replies in one
    evaluation.
    """

    item: str
    question: str
    answer: str
    replies: tuple[ItemReply, ...]


def find_evaluation(view: LedgerView, name: str) -> StoredEvaluation:
    """The evaluation whose id is `name`, or the only evaluation whose id starts with `name`.

    Raises:
        NothingMatchedError: no id starts with `name`, or several do and none is exactly `name`.
    """
    rows = view.list_by_id_prefix("evaluations", name)
    exact_matches = [row for row in rows if row["id"] == name]
    matches = exact_matches or rows
    if not matches:
        raise NothingMatchedError(f"no evaluation {name!r} in this home", "list evaluations with `nanoflux eval list`")
    if len(matches) > 1:
        raise make_ambiguity_error(name, "evaluation", [row["id"] for row in matches])
    return decode_row(StoredEvaluation, matches[0], ("settings", "result"))


def order_base_first(view: LedgerView, evaluations: Sequence[str]) -> list[str]:
    """Sort evaluations for a comparison: those without an adapter first, otherwise in their order in `evaluations`."""
    placeholders = ",".join("?" * len(evaluations))
    sql = f"SELECT id FROM evaluations WHERE adapter <> '' AND id IN ({placeholders})"
    tuned_ids = {row["id"] for row in view.rows(sql, *evaluations)}
    return sorted(evaluations, key=lambda evaluation: evaluation in tuned_ids)


def find_base_evaluation(view: LedgerView, row: Mapping[str, Any]) -> str:
    """The id of the base of an evaluation with an adapter: the newest evaluation of the same model without an adapter,
    over the same items with the same settings. "" if the evaluation in `row` has no adapter, or if it has no base.
    """
    if not row["adapter"]:
        return ""
    candidates = view.rows(
        "SELECT id, settings FROM evaluations WHERE adapter = '' AND model = ? AND data = ? AND split = ?"
        " AND status IN ('done', 'partial') ORDER BY updated_at DESC",
        row["model"],
        row["data"],
        row["split"],
    )
    settings = row["settings"] if isinstance(row["settings"], dict) else json.loads(row["settings"])
    for candidate in candidates:
        if json.loads(candidate["settings"]) == settings:
            return str(candidate["id"])
    return ""


def list_items(view: LedgerView, evaluation: str) -> list[ItemScore]:
    """The items of an evaluation with their marks, ordered by id."""
    rows = view.rows(
        "SELECT item, verdict, reading FROM evaluation_items WHERE evaluation = ? ORDER BY item, repeat", evaluation
    )
    rows_by_item: dict[str, list[Any]] = {}
    for row in rows:
        rows_by_item.setdefault(row["item"], []).append(row)
    return [_score_item(item, item_rows) for item, item_rows in rows_by_item.items()]


def _score_item(item: str, rows: Sequence[Any]) -> ItemScore:
    """The score of one item, from the ledger's rows for it (one row per repeat)."""
    marks = [row["verdict"] for row in rows]
    scored_count = len(marks) - marks.count("unscored")
    return ItemScore(item, marks.count("right"), scored_count, len(marks), tuple(row["reading"] for row in rows))


def list_flips(view: LedgerView, base: str, other: str) -> list[Flip]:
    """The items that flip from the evaluation `base` to the evaluation `other`, in the order of `find_flips`."""

    def load_shares(evaluation: str) -> dict[str, float]:
        return {score.item: score.share for score in list_items(view, evaluation) if score.share is not None}

    return find_flips(load_shares(base), load_shares(other))


def find_flips(base: Mapping[str, float], other: Mapping[str, float]) -> list[Flip]:
    """The flips between the shares of right replies in two evaluations, both by item. Lost items come before gained
    ones, larger changes before smaller ones; ties are ordered by id.
    """
    shared_items = base.keys() & other.keys()
    flips = [Flip(item, base[item], other[item]) for item in shared_items if base[item] != other[item]]
    return sorted(flips, key=lambda flip: (flip.is_gained, -abs(flip.other - flip.base), flip.item))


def load_questions(view: LedgerView, evaluation: str) -> dict[str, Seed]:
    """The items of an evaluation by id; empty if their benchmark is no longer in this home."""
    stored_evaluation = find_evaluation(view, evaluation)
    return {item.id: item for item in load_available_items(view.path, stored_evaluation.data, stored_evaluation.split)}


def load_item(view: LedgerView, evaluation: str, item: str, questions: Mapping[str, Seed] | None = None) -> ItemRecord:
    """An item with all its replies. To load several items, load their `questions` once with `load_questions`.

    Raises:
        NothingMatchedError: the evaluation has no reply to this item.
    """
    rows = view.rows(
        f"SELECT repeat, verdict, soft, reading, calls.reply FROM evaluation_items LEFT JOIN {CALLS} AS calls"
        " ON calls.id = evaluation_items.call WHERE evaluation = ? AND item = ? ORDER BY repeat",
        evaluation,
        item,
    )
    replies = tuple(
        ItemReply(row["repeat"], row["verdict"], row["soft"], row["reading"], _read_reply_text(row["reply"]))
        for row in rows
    )
    if not replies:
        raise NothingMatchedError(
            f"evaluation {evaluation} has no item {item!r}", f"list its items with `nanoflux eval items {evaluation}`"
        )
    if questions is None:
        questions = load_questions(view, evaluation)
    seed = questions.get(item)
    if seed is None:
        return ItemRecord(item, NO_QUESTION, "", replies)
    return ItemRecord(item, seed.format_question(), seed.answer, replies)


def _read_reply_text(reply: str | None) -> str:
    """The text of a stored reply; "" if it is damaged on disk, which `run verify` reports."""
    with suppress(ValueError, LookupError, TypeError):
        return str(json.loads(reply or "")["text"])
    return ""
