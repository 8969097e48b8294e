"""The questions of the starter benchmarks with multiple-choice questions."""

from nanoflux_local.domains.starter.items import load_choice_items
from nanoflux_local.transcript import Seed


def make_choice_items(name: str, split: str) -> list[Seed]:
    """The questions of one split of the starter benchmark for the subject `name`."""
    return [
        Seed(item.id, f"starter-{name}", item.question, item.answer, item.solution, options=dict(item.options))
        for item in load_choice_items(name)
        if item.split == split
    ]
