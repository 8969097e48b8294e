"""Flips: the items that one side of a comparison got right and the other did not, each with both replies."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from nanoflux_local.evaluate.evaluation import format_question
from nanoflux_local.ledger.packing import CALLS
from nanoflux_local.ledger.views import LedgerView
from nanoflux_local.seeds.datasets import items_here
from nanoflux_local.transcript import Seed

SHOWN = 8
"""Number of items of each kind on a page; the counts cover all."""


def find_flips(view: LedgerView, before: str, after: str) -> dict[str, Any]:
    """The items gained and lost from one evaluation to another in their first repeat, with both replies."""
    one, other = _replies(view, before), _replies(view, after)
    shared = sorted(one.keys() & other.keys())
    gained = [item for item in shared if one[item]["verdict"] != "right" and other[item]["verdict"] == "right"]
    lost = [item for item in shared if one[item]["verdict"] == "right" and other[item]["verdict"] != "right"]
    items = _items(view, before)
    return {
        "items": len(shared),
        "gained": len(gained),
        "lost": len(lost),
        "shown": {
            kind: [_flip_entry(view, items, item, one[item], other[item]) for item in items_of_kind[:SHOWN]]
            for kind, items_of_kind in (("gained", gained), ("lost", lost))
        },
    }


def _replies(view: LedgerView, evaluation: str) -> dict[str, dict[str, Any]]:
    rows = view.rows(
        "SELECT item, reading, verdict, call FROM evaluation_items WHERE evaluation = ? AND repeat = 0", evaluation
    )
    return {row["item"]: dict(row) for row in rows}


def _items(view: LedgerView, evaluation: str) -> dict[str, Seed]:
    """The items asked, if their benchmark is still in this home."""
    row = view.row("SELECT data, split FROM evaluations WHERE id = ?", evaluation)
    return {item.id: item for item in items_here(view.path, row["data"], row["split"])} if row else {}


def _flip_entry(
    view: LedgerView, items: Mapping[str, Seed], name: str, one: dict[str, Any], other: dict[str, Any]
) -> dict[str, Any]:
    item = items.get(name)
    return {
        "item": name,
        "question": format_question(item) if item else "(the benchmark is no longer in this home)",
        "answer": item.answer if item else "",
        "before": {**one, "reply": _text(view, one["call"])},
        "after": {**other, "reply": _text(view, other["call"])},
    }


def _text(view: LedgerView, call: int) -> str:
    row = view.row(f"SELECT reply FROM {CALLS} WHERE id = ?", call)
    with suppress(ValueError, LookupError):  # damaged on disk: `ledger verify` reports it
        return str(json.loads(row["reply"])["text"]) if row else ""
    return ""
