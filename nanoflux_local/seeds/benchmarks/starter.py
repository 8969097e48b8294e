"""The starter benchmark: arithmetic word problems from the templates that ship with the package."""

import random

from nanoflux_local.domains.starter.templates import load_templates
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.source import instantiate
from nanoflux_local.transcript import Seed

ITEMS_PER_TEMPLATE = 4
"""The number of items that are made from each template, each with newly drawn numbers."""


def make_starter_items(split: str) -> list[Seed]:
    """`ITEMS_PER_TEMPLATE` items from every template of a split, the same at every call."""
    return [
        instantiate(template, random.Random(derive_seed("starter", template.id, number)), number)
        for number in range(ITEMS_PER_TEMPLATE)
        for template in load_templates()
        if template.split == split
    ]


BENCHMARK = BuiltInBenchmark("starter", make_starter_items)
