"""The starter stories benchmark: word problems of one to four steps, composed of plots and situations."""

import random

from nanoflux_local.domains.starter.stories import load_stories
from nanoflux_local.records import derive_seed
from nanoflux_local.seeds.benchmarks.base import BuiltInBenchmark
from nanoflux_local.seeds.source import instantiate
from nanoflux_local.transcript import Seed


def make_story_items(split: str) -> list[Seed]:
    """One item from every story of a split, the same at every call."""
    return [
        instantiate(story, random.Random(derive_seed("starter-stories", story.id)), dataset="starter-stories")
        for story in load_stories()
        if story.split == split
    ]


BENCHMARK = BuiltInBenchmark("starter-stories", make_story_items, domains=("starter",))
