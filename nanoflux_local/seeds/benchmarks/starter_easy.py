"""The easy starter benchmark: short templates with small numbers, which the smallest models can partly solve."""

import random

from nanoflux_local.domains.starter.templates import load_templates
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.source import instantiate
from nanoflux_local.transcript import Seed

DRAWS = 4
"""The number of items from each template, each with newly drawn numbers."""
MAX_STEPS = 2
"""The maximum number of steps of a template."""
SHARE = 0.3
"""Numbers are drawn from this lower share of each quantity's range."""


def make_easy_items(split: str) -> list[Seed]:
    """`DRAWS` items with small numbers from every short template of a split; always the same list."""
    return [
        instantiate(template, random.Random(derive_seed("starter-easy", template.id, number)), number, SHARE)
        for number in range(DRAWS)
        for template in load_templates()
        if template.split == split and template.steps <= MAX_STEPS
    ]


BENCHMARK = BuiltInBenchmark("starter-easy", make_easy_items)
