"""The starter medicine benchmark: multiple-choice questions that ship with the package."""

from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.starter_choices import make_choice_items
from nanoflux_local.transcript import Seed


def make_medicine_items(split: str) -> list[Seed]:
    """The questions of one split."""
    return make_choice_items("medicine", split)


BENCHMARK = BuiltInBenchmark("starter-medicine", make_medicine_items, domains=("starter-medicine",))
