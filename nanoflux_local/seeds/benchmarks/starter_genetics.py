"""The starter genetics benchmark: multiple-choice questions that ship with the package."""

from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.starter_choices import make_choice_items
from nanoflux_local.transcript import Seed


def make_genetics_items(split: str) -> list[Seed]:
    """The questions of one split."""
    return make_choice_items("genetics", split)


BENCHMARK = BuiltInBenchmark("starter-genetics", make_genetics_items, domains=("starter-genetics",))
