"""Gathers the flipped items of a comparison for a report: each with its question, gold answer and both replies."""

from collections.abc import Mapping
from dataclasses import dataclass

from nanoflux_local.evaluate.items import (
    FLIP_RULE,
    Flip,
    ItemRecord,
    list_flips,
    list_items,
    load_item,
    load_questions,
)
from nanoflux_local.ledger.views import LedgerView

MAX_SHOWN_FLIPS = 8
"""Maximum number of gained items, and of lost items, on a page; the counts on the page include all items."""


@dataclass(frozen=True, slots=True)
class ShownReply:
    """One evaluation's replies to a flipped item: the share that is right, and the mark, the answer (`reading`) and the
    text of the first scored reply.
    """

    share: str
    mark: str
    reading: str
    reply: str


@dataclass(frozen=True, slots=True)
class ShownFlip:
    """A flipped item with both sides' replies."""

    item: str
    question: str
    answer: str
    before: ShownReply
    after: ShownReply


@dataclass(frozen=True, slots=True)
class FlipSection:
    """The flipped items of a comparison: how many of the `items` that both evaluations scored were gained and lost.

    `rule` is the sentence that defines a flip. `shown` contains the flips that the page shows, under "gained" and
    "lost". In an experiment, `a` and `b` are the titles of the base and of the compared condition.
    """

    rule: str
    items: int
    gained: int
    lost: int
    shown: Mapping[str, list[ShownFlip]]
    a: str = ""
    b: str = ""


def gather_flips(view: LedgerView, base: str, other: str) -> FlipSection:
    """The items that the evaluation `other` gained and lost against the evaluation `base`, with both sides' replies."""
    flips = list_flips(view, base, other)
    questions = load_questions(view, base)
    items_scored_by_both = _list_scored_items(view, base) & _list_scored_items(view, other)
    gained, lost = [flip for flip in flips if flip.is_gained], [flip for flip in flips if not flip.is_gained]

    def show(flip: Flip) -> ShownFlip:
        before, after = (load_item(view, evaluation, flip.item, questions) for evaluation in (base, other))
        return ShownFlip(
            flip.item,
            before.question,
            before.answer,
            _show_side(before, share=flip.base),
            _show_side(after, share=flip.other),
        )

    shown = {
        "gained": [show(flip) for flip in gained[:MAX_SHOWN_FLIPS]],
        "lost": [show(flip) for flip in lost[:MAX_SHOWN_FLIPS]],
    }
    return FlipSection(FLIP_RULE, len(items_scored_by_both), len(gained), len(lost), shown)


def _list_scored_items(view: LedgerView, evaluation: str) -> set[str]:
    return {score.item for score in list_items(view, evaluation) if score.scored}


def _show_side(record: ItemRecord, share: float) -> ShownReply:
    first_scored = next(reply for reply in record.replies if reply.mark != "unscored")
    return ShownReply(f"{share:.0%} right", first_scored.mark, first_scored.reading, first_scored.text)
