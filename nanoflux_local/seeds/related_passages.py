"""A seed source of passages: draws passages that have rare words in common, so that a question can need several.

The first passage is drawn uniformly, as the paper draws seeds. Passages that are drawn independently rarely bear on one
situation; the others are therefore drawn from the passages most similar to the first.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property

from nanoflux_local.seeds.part import Part
from nanoflux_local.seeds.source import refuse_shortage
from nanoflux_local.transcript import Seed

RELATED = 8
"""The number of most similar passages from which the others are drawn."""
DIGITS = 9
"""Decimals to which similarities are rounded, so that every machine ranks them alike."""
Weights = dict[str, float]


class RelatedPassages:
    """The train passages of documents. Their similarity is the cosine of their words, each weighted by how few passages
    contain it.
    """

    def __init__(self, passages: Sequence[Seed]) -> None:
        self._passages = list(passages)

    def draw(self, count: int, rng: random.Random, without: Collection[str] = ()) -> tuple[Seed, ...]:
        """`count` different passages; none has an id in `without`, unless too few others are left."""
        refuse_shortage(count, len(self._passages))
        numbers = [number for number, passage in enumerate(self._passages) if passage.id not in without]
        if len(numbers) < count:
            numbers = list(range(len(self._passages)))
        first = rng.choice(numbers)
        others = self._rank(first, numbers)[: max(RELATED, count - 1)]
        return tuple(self._passages[number] for number in (first, *rng.sample(others, count - 1)))

    def chain(self, seeds: Sequence[Seed], rng: random.Random) -> tuple[Part, ...] | None:
        """Passages have no programs that could be chained."""
        del seeds, rng
        return None

    def _rank(self, first: int, numbers: Sequence[int]) -> list[int]:
        """The other passages of `numbers`, the most similar to `first` first."""
        similarities = {number: self._similarity(first, number) for number in numbers if number != first}
        return sorted(similarities, key=lambda number: (-similarities[number], number))

    def _similarity(self, one: int, other: int) -> float:
        weights = self._weights[other]
        return round(sum(weight * weights.get(word, 0.0) for word, weight in self._weights[one].items()), DIGITS)

    @cached_property
    def _weights(self) -> list[Weights]:
        """The weight of each word of each passage, as a vector of length 1. Built on first use: most processes that
        build a run's rules draw no seeds.
        """
        counts = [Counter(re.findall(r"\w+", passage.question.casefold())) for passage in self._passages]
        spread = Counter(word for words in counts for word in words)
        return [_weigh(words, spread, len(counts)) for words in counts]


def _weigh(words: Counter[str], spread: Counter[str], total: int) -> Weights:
    weights = {word: (1 + math.log(count)) * math.log(total / spread[word]) for word, count in sorted(words.items())}
    length = math.sqrt(math.fsum(weight * weight for weight in weights.values())) or 1.0
    return {word: weight / length for word, weight in weights.items()}
