"""Held-out items: the evaluation items that no kept example may repeat, and the test that finds such repeats.

A question is compared with the items in three ways, the cheapest first: identical words, a sequence of thirteen words
in common, and an embedding whose similarity exceeds θq. Numbers are ignored, since GSM-Hard restates GSM8K's test set
with different numbers. A phrase that also occurs in training items, or in several items of one benchmark, is a stock
phrase of the benchmark ("which of the following is the most likely …") and identifies no item.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np

from nanoflux_local.ledger.calls import Call, embed_texts
from nanoflux_local.records import Identity, Vector, similarity
from nanoflux_local.run.novelty import Matrix, bound_rounding_error
from nanoflux_local.seeds.splits import extract_stem
from nanoflux_local.transcript import Attack, Seed

GRAM = 13
"""The length in words of a phrase that two texts do not share by chance (Brown et al. 2020, "Language models are
few-shot learners").
"""


class HeldOut:
    """The test items of some benchmarks. A phrase that occurs in `training_texts` identifies no item."""

    def __init__(self, items: Sequence[Seed] = (), training_texts: Iterable[str] = ()) -> None:
        self._items, self._training_texts = items, training_texts
        self._stems = {extract_stem(item.question): item.id for item in reversed(items)}
        self._matrix: Matrix = np.empty((0, 0), dtype=np.float32)
        self._embedded: Sequence[Seed] = ()

    async def embed(self, embedder: Identity, call: Call) -> None:
        """Embed the items and index their phrases before the first turn, so that no turn waits for this. If an earlier
        run used the same embedder, the embeddings are stored calls.
        """
        await asyncio.to_thread(lambda: self._grams)
        vectors = [vector async for vector in embed_texts(embedder, [item.question for item in self._items], call)]
        self._embedded = [item for item, vector in zip(self._items, vectors, strict=True) if vector is not None]
        if self._embedded:
            self._matrix = np.stack([vector for vector in vectors if vector is not None])
        refused = len(vectors) - len(self._embedded)
        if refused:
            log = logging.getLogger(__name__)
            log.warning("the embedder refuses %d evaluation items; they are compared by their words only", refused)

    @cached_property
    def _grams(self) -> dict[str, str]:
        """The phrases that identify an item, with its id. They are indexed on first use, because training sets are
        large, and most processes that build a run's rules run no turn.
        """
        return _find_identifying_phrases(self._items, self._training_texts)

    def find_repeat(self, attack: Attack, vector: Vector, threshold: float) -> str:
        """The item that an attack repeats, and how, or "". `vector` is the unit vector of its question."""
        repeated_item = self._stems.get(extract_stem(attack.question))
        if repeated_item is not None:
            return f"repeats {repeated_item}: the same words"
        for gram in list_word_sequences(f"{attack.question}\n{attack.solution}"):
            if gram in self._grams:
                return f"repeats {self._grams[gram]}: {gram!r}"
        nearest = self._nearest(vector)
        if nearest is not None and nearest[0] > threshold:
            return f"repeats {nearest[1]}: similarity {nearest[0]:g}"
        return ""

    def _nearest(self, vector: Vector) -> tuple[float, str] | None:
        """The largest similarity to any item, correctly rounded (see `novelty`), and the id of the first item that has
        this similarity.
        """
        if not len(self._matrix):
            return None
        rough_products = self._matrix @ vector
        rows = np.flatnonzero(rough_products >= rough_products.max() - 2 * bound_rounding_error(len(vector)))
        largest, row = max((similarity(self._matrix[row], vector), -int(row)) for row in rows)
        return largest, self._embedded[-row].id


def _find_identifying_phrases(items: Sequence[Seed], training_texts: Iterable[str]) -> dict[str, str]:
    """The phrases that identify an item, with its id: no other item of its benchmark and no training text contains
    them.
    """
    origin_by_gram: dict[str, tuple[str, str, str]] = {}
    common_grams: set[str] = set()
    for item in items:
        origin = (item.dataset, extract_stem(item.question), item.id)
        for gram in list_word_sequences(item.question):
            dataset, stem, _ = origin_by_gram.setdefault(gram, origin)
            if dataset == item.dataset and stem != origin[1]:
                common_grams.add(gram)
    for text in training_texts if origin_by_gram else ():
        common_grams.update(gram for gram in list_word_sequences(text) if gram in origin_by_gram)
    return {gram: item_id for gram, (*_, item_id) in origin_by_gram.items() if gram not in common_grams}


def list_word_sequences(text: str) -> Iterator[str]:
    """Every run of `GRAM` consecutive words of a text, case-folded; numbers are skipped."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    return (" ".join(words[start : start + GRAM]) for start in range(len(words) - GRAM + 1))
