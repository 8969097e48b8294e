"""A seed source of passages: draws passages that have rare words in common, so that one question can require several of
them.

The first passage is drawn uniformly, as the paper draws seeds. Passages drawn independently rarely concern the same
situation, so the others are drawn from the passages that share the most rare words with the first: names, terms, and
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
from nanoflux_local.seeds.source import leave_out
from nanoflux_local.transcript import Seed

RELATED_COUNT = 8
"""The number of most related passages from which all passages after the first are drawn."""
MAX_RARE_PASSAGES = 10
"""A word in more passages than this is not rare. Everyday words and the words of forms are in more passages."""
SCORE_DECIMALS = 9
"""The number of decimals to which scores are rounded, so that every machine ranks passages alike."""


class RelatedPassages:
    """The train passages of documents. Passages are more related if they share more, and rarer, words."""

    def __init__(self, passages: Sequence[Seed]) -> None:
        self._passages = list(passages)

    def draw(self, count: int, rng: random.Random, excluded_ids: Collection[str] = ()) -> tuple[Seed, ...]:
        """`count` different passages. Those in `excluded_ids` are drawn only if fewer than `count` others are left."""
        ids = [passage.id for passage in self._passages]
        numbers = leave_out(range(len(ids)), ids, count, excluded_ids)
        first_number = rng.choice(numbers)
        related_numbers = self._rank_related(first_number, numbers)[: max(RELATED_COUNT, count - 1)]
        drawn_numbers = [first_number, *rng.sample(related_numbers, count - 1)]
        return tuple(self._passages[number] for number in drawn_numbers)

    def chain(self, seeds: Sequence[Seed], rng: random.Random) -> tuple[Part, ...] | None:
        """Passages have no programs that could be chained."""
        del seeds, rng
        return None

    def _rank_related(self, first_number: int, numbers: Sequence[int]) -> list[int]:
        """The numbers of the other passages, beginning with the passage most related to the first one. A word counts
        more the fewer passages contain it.
        """
        scores: dict[int, float] = defaultdict(float)
        for numbers_with_word in self._numbers_by_rare_word[first_number]:
            for number in numbers_with_word:
                scores[number] += math.log(len(self._passages) / len(numbers_with_word))
        other_numbers = [number for number in numbers if number != first_number]
        return sorted(other_numbers, key=lambda number: (-round(scores[number], SCORE_DECIMALS), number))

    @cached_property
    def _numbers_by_rare_word(self) -> list[list[tuple[int, ...]]]:
        """For each passage, and each of its rare words, the numbers of all passages that contain the word. Built on
        first use, since most processes that create this source draw no seeds.
        """
        words_by_passage = [_list_words(passage.question) for passage in self._passages]
        numbers_by_word: dict[str, list[int]] = {}
        for number, words in enumerate(words_by_passage):
            for word in words:
                numbers_by_word.setdefault(word, []).append(number)
        numbers_by_rare_word = {
            word: tuple(numbers) for word, numbers in numbers_by_word.items() if 2 <= len(numbers) <= MAX_RARE_PASSAGES
        }
        return [
            [numbers_by_rare_word[word] for word in words if word in numbers_by_rare_word] for words in words_by_passage
        ]


def _list_words(text: str) -> list[str]:
    """The different words of a text, sorted. A number counts together with the word before it ("room 113", "every 12"),
    since equal numbers of different things do not make passages related.
    """
    words = re.findall(r"\w+", text.casefold())
    pairs = {f"{word} {number}" for word, number in pairwise(words) if number.isdigit()}
    return sorted({word for word in words if not word.isdigit()} | pairs)
