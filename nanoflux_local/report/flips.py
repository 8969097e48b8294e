"""Gathers the flipped items of a comparison for a report: each with its question, gold answer and both replies."""

from typing import Any

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


def gather_flips(view: LedgerView, base: str, other: str) -> dict[str, Any]:
    """The items that the evaluation `other` gained and lost against the evaluation `base`, with both sides' replies."""
    flips = list_flips(view, base, other)
    questions = load_questions(view, base)
    scored = [{score.item for score in list_items(view, evaluation) if score.scored} for evaluation in (base, other)]
    by_kind = {
        "gained": [flip for flip in flips if flip.is_gained],
        "lost": [flip for flip in flips if not flip.is_gained],
    }

    def show(flip: Flip) -> dict[str, Any]:
        before, after = (load_item(view, evaluation, flip.item, questions) for evaluation in (base, other))
        return {
            "item": flip.item,
            "question": before.question,
            "answer": before.answer,
            "before": _show_side(before, flip.base),
            "after": _show_side(after, flip.other),
        }

    return {
        "rule": RULE,
        "items": len(scored[0] & scored[1]),
        **{kind: len(flips_of_kind) for kind, flips_of_kind in by_kind.items()},
        "shown": {kind: [show(flip) for flip in flips_of_kind[:SHOWN]] for kind, flips_of_kind in by_kind.items()},
    }


def _show_side(record: ItemRecord, share: float) -> dict[str, Any]:
    """One side of a flip: its share of right replies, and its first scored reply."""
    reply = next(reply for reply in record.replies if reply.mark != "unscored")
    return {"share": f"{share:.0%} right", "verdict": reply.mark, "reading": reply.reading, "reply": reply.text}
