"""The starter benchmark: arithmetic word problems from the templates that ship with the package."""

import random

from nanoflux_local.domains.starter.templates import load_templates
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.source import instantiate
from nanoflux_local.transcript import Seed

DRAWS = 4
"""The number of items from each template, each with newly drawn numbers."""


def make_starter_items(split: str) -> list[Seed]:
    """`DRAWS` items from every template of a split; always the same list."""
    return [
        instantiate(template, random.Random(derive_seed("starter", template.id, number)), number)
        for number in range(DRAWS)
        for template in load_templates()
        if template.split == split
    ]


BENCHMARK = BuiltInBenchmark("starter", make_starter_items)
