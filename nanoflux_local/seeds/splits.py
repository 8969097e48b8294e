"""Decides to which split an item belongs, and which questions restate each other."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nanoflux_local.records import derive_seed
from nanoflux_local.transcript import Seed

SPLITS = ("train", "dev", "test")
SPLIT_SHARES = (("train", 0.6), ("dev", 0.1), ("test", 0.3))
"""The shares of a benchmark without official splits."""
CARVED_SHARES = (("train", 0.9), ("dev", 0.1))
"""The shares by which train is divided if a benchmark has no official dev split."""
DOCUMENT_SHARES = (("test", 0.2), ("dev", 0.1))
"""The shares of documents that are held out; the others are train documents."""
_SPLIT_WORDS = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "test": "test"}


def read_file_split(path: Path) -> str:
    """The official split that a file's name contains ("train-00000-of-00001.parquet"), or ""."""
    name = path.name if path.is_dir() else path.stem
    words = re.split(r"[^a-z]+", name.casefold())
    return next((_SPLIT_WORDS[word] for word in reversed(words) if word in _SPLIT_WORDS), "")


def hash_into_split(question: str, shares: Sequence[tuple[str, float]] = SPLIT_SHARES) -> str:
    """A split that depends only on the question's words. Numbers are ignored, so restated questions stay together."""
    position = derive_seed("split", extract_stem(question)) / 2**63  # uniform between 0 and 1
    for split, share in shares:
        if position < share:
            return split
        position -= share
    return shares[-1][0]


def split_documents(hashes: Sequence[str]) -> list[str]:
    """The split of each document, given the hash of its content. Whole documents are held out: a fifth for test, a
    tenth for dev, and at least one for test if there are three or more.
    """
    shuffled_numbers = sorted(range(len(hashes)), key=lambda number: (derive_seed("split", hashes[number]), number))
    counts = {split: round(share * len(hashes)) for split, share in DOCUMENT_SHARES}
    if len(hashes) >= 3:
        counts["test"] = max(1, counts["test"])
    held_out = [split for split, count in counts.items() for _ in range(count)]
    split_by_number = dict(zip(shuffled_numbers, held_out, strict=False))  # the other documents are train documents
    return [split_by_number.get(number, "train") for number in range(len(hashes))]


def extract_stem(question: str) -> str:
    """The letters of a question: equal for questions that differ only in their numbers and punctuation."""
    return "".join(character for character in question.casefold() if character.isalpha())


def count_restated(stems: Iterable[str], others: Iterable[Seed]) -> int:
    """How many of `stems` are also stems of questions in `others`; GSM-Hard, for example, restates GSM8K's test
    questions.
    """
    other_stems = {extract_stem(seed.question) for seed in others}
    return sum(stem in other_stems for stem in stems)
