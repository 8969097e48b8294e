"""The easy starter benchmark: short templates with small numbers, which the smallest models can partly solve."""

import random

from nanoflux_local.domains.starter.templates import load_templates
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.source import instantiate
from nanoflux_local.transcript import Seed

DRAWS, MAX_STEPS, SHARE = 4, 2, 0.3
"""The number of items from each template, the maximum steps of a template, and the part of each number's range from
which numbers are drawn, as a share counted from the low end.
"""


def make_easy_items(split: str) -> list[Seed]:
    """Every short template of a split, with several draws of small numbers; always the same list."""
    return [
        instantiate(template, random.Random(derive_seed("starter-easy", template.id, number)), number, SHARE)
        for number in range(DRAWS)
        for template in load_templates()
        if template.split == split and template.steps <= MAX_STEPS
    ]


BENCHMARK = BuiltInBenchmark("starter-easy", make_easy_items)
