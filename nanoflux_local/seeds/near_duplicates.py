"""Finds passages that repeat most of the words of an earlier passage: another version of a text, or its copy."""

import re
from collections import Counter

SHINGLE = 3
"""Consecutive words that are compared as one."""
SIMILAR = 0.7
"""The share of common shingles (of all shingles in both texts) from which a passage is a near-duplicate. One changed
word leaves 0.71 of a passage of 20 words in common, and 0.90 of one of 60 words.
"""


class NearDuplicates:
    """The passages seen so far, indexed by their shingles."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._owners: dict[tuple[str, ...], list[int]] = {}

    def add(self, text: str) -> bool:
        """Add a passage unless it is a near-duplicate of one added before. Returns whether it was added."""
        shingles = shingles_of(text)
        shared = Counter(owner for shingle in shingles for owner in self._owners.get(shingle, ()))
        if any(common >= SIMILAR * (len(shingles) + self._sizes[owner] - common) for owner, common in shared.items()):
            return False
        for shingle in shingles:
            self._owners.setdefault(shingle, []).append(len(self._sizes))
        self._sizes.append(len(shingles))
        return True


def shingles_of(text: str) -> set[tuple[str, ...]]:
    """The runs of `SHINGLE` consecutive words of a text, case-folded; a shorter text is one run."""
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[start : start + SHINGLE]) for start in range(max(1, len(words) - SHINGLE + 1))}
