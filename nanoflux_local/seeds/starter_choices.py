"""The questions of the starter benchmarks that are multiple-choice: genetics and medicine."""

from nanoflux_local.domains.starter.items import load_choice_items
from nanoflux_local.transcript import Seed


def make_choice_items(subject: str, split: str) -> list[Seed]:
    """The questions of one split of the starter benchmark for a subject, such as "genetics"."""
    return [
        Seed(item.id, f"starter-{subject}", item.question, item.answer, item.solution, options=dict(item.options))
        for item in load_choice_items(subject)
        if item.split == split
    ]
