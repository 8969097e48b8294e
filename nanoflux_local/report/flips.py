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
    """One evaluation's replies to a flipped item: the share of right replies, such as "50% right", and the mark, the
    extracted answer and the text of the first scored reply.
    """

    share: str
    mark: str
    extracted_answer: str
    reply: str


@dataclass(frozen=True, slots=True)
class ShownFlip:
    """A flipped item with its gold `answer`, and the replies of the base evaluation (`before`) and of the other
    evaluation (`after`).
    """

    item: str
    question: str
    answer: str
    before: ShownReply
    after: ShownReply


@dataclass(frozen=True, slots=True)
class FlipSection:
    """The section of a page about the flipped items of a comparison.

    `rule` is the sentence that defines a flip. `items` counts the items that both evaluations scored; `gained` and
    `lost` count those on which the other evaluation is better or worse than the base. `shown` contains the flips that
    the page shows, under the keys "gained" and "lost". In an experiment, `base_title` and `other_title` are the titles
    of the base condition and of the other condition.
    """

    rule: str
    items: int
    gained: int
    lost: int
    shown: Mapping[str, list[ShownFlip]]
    base_title: str = ""
    other_title: str = ""


def gather_flips(view: LedgerView, base: str, other: str) -> FlipSection:
    """The items that the evaluation `other` gained and lost against the evaluation `base`, with the replies of both."""
    flips = list_flips(view, base, other)
    questions = load_questions(view, base)
    items_scored_by_both = _list_scored_items(view, base) & _list_scored_items(view, other)
    gained = [flip for flip in flips if flip.is_gained]
    lost = [flip for flip in flips if not flip.is_gained]

    def build_shown_flip(flip: Flip) -> ShownFlip:
        before, after = (load_item(view, evaluation, flip.item, questions) for evaluation in (base, other))
        return ShownFlip(
            flip.item,
            before.question,
            before.answer,
            _build_shown_reply(before, right_share=flip.base),
            _build_shown_reply(after, right_share=flip.other),
        )

    shown = {
        "gained": [build_shown_flip(flip) for flip in gained[:MAX_SHOWN_FLIPS]],
        "lost": [build_shown_flip(flip) for flip in lost[:MAX_SHOWN_FLIPS]],
    }
    return FlipSection(FLIP_RULE, len(items_scored_by_both), len(gained), len(lost), shown)


def _list_scored_items(view: LedgerView, evaluation: str) -> set[str]:
    """The ids of the items with at least one scored reply."""
    return {score.item for score in list_items(view, evaluation) if score.scored}


def _build_shown_reply(record: ItemRecord, right_share: float) -> ShownReply:
    first_scored = next(reply for reply in record.replies if reply.mark != "unscored")
    return ShownReply(f"{right_share:.0%} right", first_scored.mark, first_scored.reading, first_scored.text)
