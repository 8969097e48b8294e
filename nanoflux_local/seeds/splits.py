"""Assigns items to splits, and counts the questions that restate others."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nanoflux_local.records import derive_seed
from nanoflux_local.transcript import Seed

SPLITS = ("train", "dev", "test")
SPLIT_SHARES = (("train", 0.6), ("dev", 0.1), ("test", 0.3))
"""The share of each split in a benchmark without official splits."""
CARVED_SHARES = (("train", 0.9), ("dev", 0.1))
"""The shares into which the official train split is divided if a benchmark has no official dev split."""
DOCUMENT_SHARES = (("test", 0.2), ("dev", 0.1))
"""The shares of documents that are held out; the others are train documents."""
_SPLIT_BY_WORD = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "test": "test"}


def read_file_split(path: Path) -> str:
    """The official split that a file's name contains ("train-00000-of-00001.parquet"), or ""."""
    name = path.name if path.is_dir() else path.stem
    words = re.split(r"[^a-z]+", name.casefold())
    return next((_SPLIT_BY_WORD[word] for word in reversed(words) if word in _SPLIT_BY_WORD), "")


def hash_into_split(question: str, shares: Sequence[tuple[str, float]] = SPLIT_SHARES) -> str:
    """The split of a question, which depends only on its letters: questions that differ only in their numbers are in
    the same split.
    """
    position = derive_seed("split", extract_stem(question)) / 2**63  # uniform between 0 and 1
    for split, share in shares:
        if position < share:
            return split
        position -= share
    return shares[-1][0]


def split_documents(hashes: Sequence[str]) -> list[str]:
    """The split of each document, which depends only on the hashes of the documents' contents. A fifth of the documents
    is held out for test, and a tenth for dev; of three or more documents, at least one is held out for test.
    """
    shuffled_indices = sorted(range(len(hashes)), key=lambda index: (derive_seed("split", hashes[index]), index))
    held_out_counts = {split: round(share * len(hashes)) for split, share in DOCUMENT_SHARES}
    if len(hashes) >= 3:
        held_out_counts["test"] = max(1, held_out_counts["test"])
    held_out_splits = [split for split, count in held_out_counts.items() for _ in range(count)]
    split_by_index = dict(zip(shuffled_indices, held_out_splits, strict=False))  # the others are train documents
    return [split_by_index.get(index, "train") for index in range(len(hashes))]


def extract_stem(question: str) -> str:
    """The letters of a question: equal for questions that differ only in their numbers and punctuation."""
    return "".join(character for character in question.casefold() if character.isalpha())


def count_restated(stems: Iterable[str], others: Iterable[Seed]) -> int:
    """How many of `stems` are also stems of questions in `others`. GSM-Hard, for example, restates the test questions
    of GSM8K.
    """
    other_stems = {extract_stem(seed.question) for seed in others}
    return sum(stem in other_stems for stem in stems)
