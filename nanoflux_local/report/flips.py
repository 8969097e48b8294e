"""Gathers the flipped items of a comparison for a report: each with its question, gold answer and both replies."""

from collections.abc import Mapping
from dataclasses import dataclass

from nanoflux_local.evaluate.items import (
    RULE,
    Flip,
    ItemRecord,
    list_flips,
    list_items,
    load_item,
    load_questions,
)
from nanoflux_local.ledger.views import LedgerView

SHOWN = 8
"""Maximum number of items of each kind on a page; the counts on the page include all items."""


@dataclass(frozen=True, slots=True)
class ShownReply:
    """One side of a flip: its share of right replies, and the mark, answer and text of its first scored reply."""

    share: str
    verdict: str
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
    """The flipped items of a comparison: how many of the `items` that both sides scored were gained and lost. `shown`
    contains the flips that the page shows, under "gained" and "lost". `a` and `b` are the titles of the sides in an
    experiment.
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
    scored_items = [
        {score.item for score in list_items(view, evaluation) if score.scored} for evaluation in (base, other)
    ]
    gained, lost = [flip for flip in flips if flip.is_gained], [flip for flip in flips if not flip.is_gained]

    def show(flip: Flip) -> ShownFlip:
        before, after = (load_item(view, evaluation, flip.item, questions) for evaluation in (base, other))
        sides = _show_side(before, flip.base), _show_side(after, flip.other)
        return ShownFlip(flip.item, before.question, before.answer, *sides)

    shown = {"gained": [show(flip) for flip in gained[:SHOWN]], "lost": [show(flip) for flip in lost[:SHOWN]]}
    return FlipSection(RULE, len(scored_items[0] & scored_items[1]), len(gained), len(lost), shown)


def _show_side(record: ItemRecord, share: float) -> ShownReply:
    reply = next(reply for reply in record.replies if reply.mark != "unscored")
    return ShownReply(f"{share:.0%} right", reply.mark, reply.reading, reply.text)
