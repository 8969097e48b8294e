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
"""All passages after the first are drawn from this number of passages: those most closely related to the first."""
MAX_RARE_PASSAGES = 10
"""A word is rare if at most this many passages contain it. Everyday words, and the standard words of forms, are in more
passages.
"""
SCORE_DECIMALS = 9
"""The number of decimal places to which scores are rounded, so that every machine ranks passages alike."""


class RelatedPassages:
    """The train passages of documents; each is identified by its index. Two passages are more closely related if they
    share more words, or rarer ones.
    """

    def __init__(self, passages: Sequence[Seed]) -> None:
        self._passages = list(passages)

    def draw(self, count: int, rng: random.Random, excluded_ids: Collection[str] = ()) -> tuple[Seed, ...]:
        """`count` different passages. Those in `excluded_ids` are drawn only if fewer than `count` others are left."""
        ids = [passage.id for passage in self._passages]
        available_indices = leave_out(range(len(ids)), ids, count, excluded_ids)
        first_index = rng.choice(available_indices)
        related_indices = self._rank_related(first_index, available_indices)[: max(RELATED_COUNT, count - 1)]
        drawn_indices = [first_index, *rng.sample(related_indices, count - 1)]
        return tuple(self._passages[index] for index in drawn_indices)

    def chain(self, seeds: Sequence[Seed], rng: random.Random) -> tuple[Part, ...] | None:
        """Passages have no programs that could be chained."""
        del seeds, rng
        return None

    def _rank_related(self, first_index: int, indices: Sequence[int]) -> list[int]:
        """The passages in `indices` except the first one, beginning with the passage most related to it. A word counts
        more the fewer passages contain it.
        """
        scores: dict[int, float] = defaultdict(float)
        for sharing_indices in self._shared_rare_words[first_index]:
            word_weight = math.log(len(self._passages) / len(sharing_indices))
            for index in sharing_indices:
                scores[index] += word_weight
        other_indices = [index for index in indices if index != first_index]
        return sorted(other_indices, key=lambda index: (-round(scores[index], SCORE_DECIMALS), index))

    @cached_property
    def _shared_rare_words(self) -> list[list[tuple[int, ...]]]:
        """For each passage, and each of its rare words, all passages that contain the word. Built on first use, since
        most processes that create this source draw no seeds.
        """
        words_by_passage = [_list_words(passage.question) for passage in self._passages]
        passages_by_word: dict[str, list[int]] = {}
        for index, words in enumerate(words_by_passage):
            for word in words:
                passages_by_word.setdefault(word, []).append(index)
        passages_by_rare_word: dict[str, tuple[int, ...]] = {}
        for word, passages in passages_by_word.items():
            if 2 <= len(passages) <= MAX_RARE_PASSAGES:
                passages_by_rare_word[word] = tuple(passages)
        return [
            [passages_by_rare_word[word] for word in words if word in passages_by_rare_word]
            for words in words_by_passage
        ]


def _list_words(text: str) -> list[str]:
    """The different words of a text, sorted. A number counts together with the word before it ("room 113", "every 12"),
    since equal numbers of different things do not make passages related.
    """
    words = re.findall(r"\w+", text.casefold())
    words_with_numbers = {f"{word} {number}" for word, number in pairwise(words) if number.isdigit()}
    plain_words = {word for word in words if not word.isdigit()}
    return sorted(plain_words | words_with_numbers)
