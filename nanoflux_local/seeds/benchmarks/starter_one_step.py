"""The one-step benchmark: one-step starter stories, of which the smallest models solve about half."""

import random

from nanoflux_local.domains.starter.stories import load_one_step_stories
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.source import instantiate
from nanoflux_local.transcript import Seed

NAME = "starter-one-step"
ITEMS_PER_STORY = 2
"""The number of items that are made from each story, each with newly drawn numbers."""


def make_one_step_items(split: str) -> list[Seed]:
    """`ITEMS_PER_STORY` items from every one-step story of a split, the same at every call."""
    return [
        instantiate(story, random.Random(derive_seed(NAME, story.id, number)), number, dataset=NAME)
        for number in range(ITEMS_PER_STORY)
        for story in load_one_step_stories()
        if story.split == split
    ]


BENCHMARK = BuiltInBenchmark(NAME, make_one_step_items)
