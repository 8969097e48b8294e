"""The local embedder computes unit vectors that depend only on the text; tested with its real model."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from nanoflux_local.endpoints.local.embedder import LocalEmbedder
from nanoflux_local.errors import EndpointError
from nanoflux_local.records import EmbedRequest, Vector

pytestmark = pytest.mark.real_model


@pytest.fixture(scope="module")
def embedder(minilm_dir: Path) -> LocalEmbedder:
    return LocalEmbedder(minilm_dir)


async def embed(embedder: LocalEmbedder, text: str) -> Vector:
    """The embedding of one text."""
    return (await embedder.embed(EmbedRequest(embedder.identity, text))).vector


async def test_vectors_have_unit_length_and_are_similar_for_similar_texts(embedder: LocalEmbedder) -> None:
    cat_vector = await embed(embedder, "A cat sleeps.")
    kitten_vector = await embed(embedder, "A kitten naps.")
    tax_vector = await embed(embedder, "Tax law")
    assert cat_vector.shape == (embedder.dimensions,) == (384,) and cat_vector.dtype == np.float32
    assert np.linalg.norm(cat_vector) == pytest.approx(1.0, abs=1e-6)
    assert cat_vector @ kitten_vector > cat_vector @ tax_vector + 0.2


async def test_concurrent_and_sequential_vectors_are_bit_identical(embedder: LocalEmbedder) -> None:
    texts = [f"Question {number}: {'how many apples are left ' * (number % 5)}" for number in range(24)]
    sequential_vectors = [await embed(embedder, text) for text in texts]
    concurrent_vectors = await asyncio.gather(*(embed(embedder, text) for text in reversed(texts)))
    assert all(map(np.array_equal, sequential_vectors, reversed(concurrent_vectors)))


async def test_long_text_is_embedded_without_truncation(embedder: LocalEmbedder) -> None:
    long_beginning = "the train leaves the station and " * 60  # longer than the model's maximum input
    vectors = [await embed(embedder, long_beginning + end) for end in ("giraffes eat leaves", "inflation rises fast")]
    assert not np.array_equal(*vectors)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1.0, abs=1e-6)


async def test_empty_and_unusual_texts_have_finite_vectors(embedder: LocalEmbedder) -> None:
    for text in ("", "\ud800 odd", "naïve – 50 %"):
        assert np.isfinite(await embed(embedder, text)).all()


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="contains no installed weights"):
        LocalEmbedder(tmp_path)
