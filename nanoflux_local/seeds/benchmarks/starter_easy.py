"""The easy starter benchmark: short templates with small numbers, which the smallest models can partly solve."""

import random

from nanoflux_local.domains.starter.templates import load_templates
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.source import instance
from nanoflux_local.transcript import Seed

DRAWS, MOST_STEPS, SHARE = 4, 2, 0.3
"""Draws for each template, the steps of the longest template, and the lowest share of each number's range."""


def easy_items(split: str) -> list[Seed]:
    """Every short template of a split with small numbers drawn several times; always the same list."""
    return [
        instance(template, random.Random(derive_seed("starter-easy", template.id, number)), number, SHARE)
        for number in range(DRAWS)
        for template in load_templates()
        if template.split == split and template.steps <= MOST_STEPS
    ]


BENCHMARK = BuiltInBenchmark("starter-easy", easy_items)
