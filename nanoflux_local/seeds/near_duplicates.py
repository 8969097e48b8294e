"""Finds passages that repeat most of the words of an earlier passage, such as copies or other versions of it."""

import re
from collections import Counter

WORDS_PER_SHINGLE = 3
"""The number of consecutive words that are compared as one unit."""
MIN_COMMON_SHARE = 0.7
"""Two passages are near-duplicates if, of the shingles that occur in at least one of them, at least this share occurs
in both. If one word is changed, the share is 0.71 for a passage of 20 words and 0.90 for a passage of 60 words.
"""


class NearDuplicates:
    """The passages seen so far, indexed by their shingles; passages are numbered from 0."""

    def __init__(self) -> None:
        self._shingle_counts: list[int] = []  # by passage number
        self._passages_by_shingle: dict[tuple[str, ...], list[int]] = {}

    def add(self, text: str) -> bool:
        """Add a passage unless it is a near-duplicate of an earlier passage. Returns whether it was added."""
        shingles = extract_shingles(text)
        common_counts: Counter[int] = Counter()
        for shingle in shingles:
            common_counts.update(self._passages_by_shingle.get(shingle, ()))
        for earlier_passage, common_count in common_counts.items():
            total_count = len(shingles) + self._shingle_counts[earlier_passage] - common_count
            if common_count >= MIN_COMMON_SHARE * total_count:
                return False
        passage_number = len(self._shingle_counts)
        for shingle in shingles:
            self._passages_by_shingle.setdefault(shingle, []).append(passage_number)
        self._shingle_counts.append(len(shingles))
        return True


def extract_shingles(text: str) -> set[tuple[str, ...]]:
    """The shingles of a text: its sequences of `WORDS_PER_SHINGLE` consecutive words, case-folded. A text with fewer
    words is a single shingle.
    """
    words = re.findall(r"\w+", text.casefold())
    shingle_count = max(1, len(words) - WORDS_PER_SHINGLE + 1)
    return {tuple(words[start : start + WORDS_PER_SHINGLE]) for start in range(shingle_count)}
