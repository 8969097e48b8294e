"""Held-out items: the evaluation items that no kept example may repeat, and the test that finds such repeats.

An attack repeats an item in one of three ways, tested in this order: its question has the same words; its question or
solution shares a phrase of thirteen words; or the similarity of the two questions' embeddings exceeds the threshold θq.
Numbers are ignored in the first two tests, since GSM-Hard restates GSM8K's test set with different numbers. A phrase
that also occurs in training items, or in several items of one benchmark, is a stock phrase of the benchmark ("which of
the following is the most likely …") and identifies no item.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from nanoflux_local.ledger.calls import Call, embed_texts
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import Identity, Vector, similarity
from nanoflux_local.run.novelty import Matrix, bound_rounding_error
from nanoflux_local.seeds.splits import extract_stem
from nanoflux_local.transcript import Attack, Seed

PHRASE_WORDS = 13
"""The length in words of a phrase that two texts do not share by chance (Brown et al. 2020, "Language models are
few-shot learners").
"""


class PhraseOrigin(NamedTuple):
    """The first item that contains a phrase: its benchmark (`dataset`), the words of its question without numbers
    (`stem`), and its id.
    """

    dataset: str
    stem: str
    item_id: str


class HeldOut:
    """The held-out items, and indexes for finding the item that an attack repeats. A phrase that occurs in
    `training_texts` identifies no item.
    """

    def __init__(self, items: Sequence[Seed] = (), training_texts: Iterable[str] = ()) -> None:
        self._items, self._training_texts = items, training_texts
        # Reversed, so that of several items with the same stem the dictionary keeps the first.
        self._item_id_by_stem = {extract_stem(item.question): item.id for item in reversed(items)}
        self._item_vectors: Matrix = np.empty((0, 0), dtype=np.float32)
        self._embedded_items: Sequence[Seed] = ()

    async def embed(self, embedder: Identity, call: Call) -> None:
        """Embed the items and index their phrases before the first turn, so that no turn waits for this. The embeddings
        come from stored calls if an earlier run used the same embedder.
        """
        await asyncio.to_thread(lambda: self._item_id_by_phrase)  # the first access builds the index of phrases
        questions = [item.question for item in self._items]
        vectors = [vector async for vector in embed_texts(embedder, questions, call)]
        self._embedded_items = [item for item, vector in zip(self._items, vectors, strict=True) if vector is not None]
        if self._embedded_items:
            self._item_vectors = np.stack([vector for vector in vectors if vector is not None])
        refused_count = len(vectors) - len(self._embedded_items)
        if refused_count:
            items = format_quantity(refused_count, "evaluation item")
            fallback = "it is compared by its" if refused_count == 1 else "they are compared by their"
            logging.getLogger(__name__).warning("the embedder refuses %s; %s words only", items, fallback)

    @cached_property
    def _item_id_by_phrase(self) -> dict[str, str]:
        """The id of the item that each identifying phrase belongs to. It is computed on first use, because training
        sets are large, and most processes that build a run's rules run no turn.
        """
        return _find_identifying_phrases(self._items, self._training_texts)

    def find_repeat(self, attack: Attack, vector: Vector, threshold: float) -> str:
        """Describe which item an attack repeats, and how; "" if it repeats none. `vector` is the unit vector of the
        attack's question, shape (dimensions,); `threshold` is θq.
        """
        repeated_item_id = self._item_id_by_stem.get(extract_stem(attack.question))
        if repeated_item_id is not None:
            return f"repeats {repeated_item_id}: the same words"
        for phrase in list_phrases(f"{attack.question}\n{attack.solution}"):
            if phrase in self._item_id_by_phrase:
                return f"repeats {self._item_id_by_phrase[phrase]}: {phrase!r}"
        if not self._embedded_items:
            return ""
        nearest_item, nearest_similarity = self._find_nearest_item(vector)
        if nearest_similarity > threshold:
            return f"repeats {nearest_item.id}: similarity {nearest_similarity:g}"
        return ""

    def _find_nearest_item(self, vector: Vector) -> tuple[Seed, float]:
        """The item whose question is most similar to `vector`, and that similarity, computed with correct rounding (see
        `novelty`). If several items tie, the first is returned.
        """
        rough_products = self._item_vectors @ vector
        cutoff = rough_products.max() - 2 * bound_rounding_error(len(vector))
        candidate_rows = np.flatnonzero(rough_products >= cutoff)
        similarities = [similarity(self._item_vectors[row], vector) for row in candidate_rows]
        largest_similarity = max(similarities)
        nearest_row = candidate_rows[similarities.index(largest_similarity)]
        return self._embedded_items[nearest_row], largest_similarity


def _find_identifying_phrases(items: Sequence[Seed], training_texts: Iterable[str]) -> dict[str, str]:
    """The id of the item that each identifying phrase belongs to. A phrase identifies an item if no other question of
    the item's benchmark and no training text contains it.
    """
    origin_by_phrase: dict[str, PhraseOrigin] = {}
    stock_phrases: set[str] = set()
    for item in items:
        origin = PhraseOrigin(item.dataset, extract_stem(item.question), item.id)
        for phrase in list_phrases(item.question):
            first_origin = origin_by_phrase.setdefault(phrase, origin)
            if first_origin.dataset == origin.dataset and first_origin.stem != origin.stem:
                stock_phrases.add(phrase)
    if origin_by_phrase:  # otherwise the training texts need not be read
        for text in training_texts:
            stock_phrases.update(phrase for phrase in list_phrases(text) if phrase in origin_by_phrase)
    return {phrase: origin.item_id for phrase, origin in origin_by_phrase.items() if phrase not in stock_phrases}


def list_phrases(text: str) -> Iterator[str]:
    """Every sequence of `PHRASE_WORDS` consecutive words of a text, case-folded; numbers are skipped."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    return (" ".join(words[start : start + PHRASE_WORDS]) for start in range(len(words) - PHRASE_WORDS + 1))
