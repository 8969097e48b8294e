"""A seed source of passages: draws passages that have rare words in common, so that a question can need several.

The first passage is drawn uniformly, as the paper draws seeds. Passages that are drawn independently rarely bear on one
situation; the others are therefore drawn from those that share most rare words with the first: names, terms, and
the numbers of rooms and forms.
"""

import math
import random
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import pairwise

from nanoflux_local.seeds.part import Part
from nanoflux_local.seeds.source import refuse_shortage
from nanoflux_local.transcript import Seed

RELATED = 8
"""The number of related passages from which the others are drawn."""
RARE = 10
"""The number of passages that a word may be in to count as rare. Words of templates and of the language are in more."""
DIGITS = 9
"""Decimals to which scores are rounded, so that every machine ranks passages alike."""


class RelatedPassages:
    """The train passages of documents. Two passages are the more related, the more and the rarer words they share."""

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
        """The other passages of `numbers`, the most related to `first` first."""
        scores: dict[int, float] = defaultdict(float)
        for owners in self._owners_by_passage[first]:
            for number in owners:
                scores[number] += math.log(len(self._passages) / len(owners))
        others = [number for number in numbers if number != first]
        return sorted(others, key=lambda number: (-round(scores[number], DIGITS), number))

    @cached_property
    def _owners_by_passage(self) -> list[list[tuple[int, ...]]]:
        """For each rare word of each passage, the passages that contain it. Built on first use: most processes that
        build a run's rules draw no seeds.
        """
        words_by_passage = [_list_words(passage.question) for passage in self._passages]
        owners: dict[str, list[int]] = {}
        for number, words in enumerate(words_by_passage):
            for word in words:
                owners.setdefault(word, []).append(number)
        rare = {word: tuple(numbers) for word, numbers in owners.items() if 2 <= len(numbers) <= RARE}
        return [[rare[word] for word in words if word in rare] for words in words_by_passage]


def _list_words(text: str) -> list[str]:
    """The different words of a text, sorted. A number counts together with the word before it ("room 113", "every 12"),
    since equal numbers of different things say nothing.
    """
    words = re.findall(r"\w+", text.casefold())
    pairs = {f"{word} {number}" for word, number in pairwise(words) if number.isdigit()}
    return sorted({word for word in words if not word.isdigit()} | pairs)
