"""The easy starter benchmark: short templates with small numbers, which the smallest models can partly solve."""

import random

from nanoflux_local.domains.starter.templates import load_templates
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.source import instantiate
from nanoflux_local.transcript import Seed

ITEMS_PER_TEMPLATE = 4
"""The number of items that are made from each template, each with newly drawn numbers."""
MAX_STEPS = 2
"""Templates with more steps are not used."""
RANGE_SHARE = 0.3
"""Numbers are drawn from the lowest part of each quantity's range; this is the size of that part as a share of the
range.
"""


def make_easy_items(split: str) -> list[Seed]:
    """`ITEMS_PER_TEMPLATE` items with small numbers from every short template of a split, the same at every call."""
    return [
        instantiate(template, random.Random(derive_seed("starter-easy", template.id, number)), number, RANGE_SHARE)
        for number in range(ITEMS_PER_TEMPLATE)
        for template in load_templates()
        if template.split == split and template.steps <= MAX_STEPS
    ]


BENCHMARK = BuiltInBenchmark("starter-easy", make_easy_items)
