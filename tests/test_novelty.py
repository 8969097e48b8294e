"""The novelty index: exact against brute force, append-only, and read by histories that never change."""

import numpy as np
import pytest

from nanoflux_local.novelty import History, NoveltyIndex, similarity

EMPTY = History(np.empty((0, 0), dtype=np.float32))


def unit_vectors(count: int, dimensions: int = 32, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(earlier: np.ndarray, vector: np.ndarray) -> float:
    """In float64 and one by one, unlike the code under test."""
    return max(sum(float(a) * float(b) for a, b in zip(row, vector, strict=True)) for row in earlier)


def filled(vectors: np.ndarray) -> NoveltyIndex:
    index = NoveltyIndex()
    for vector in vectors:
        index.append(vector)
    return index


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 600])
def test_the_nearest_is_what_brute_force_finds(count):
    vectors, queries = unit_vectors(count), unit_vectors(20, seed=1)
    index = filled(vectors)
    assert len(index) == count
    for query in queries:
        assert index.history().nearest(query) == pytest.approx(brute_force(vectors, query), abs=2e-6)


def test_each_row_finds_itself():
    vectors = unit_vectors(300)
    history = filled(vectors).history()
    assert [history.nearest(vector) for vector in vectors] == pytest.approx([1.0] * 300, abs=1e-6)


def test_all_similarities_negative_is_not_none():
    """The largest of negative cosines is still the nearest."""
    vector = unit_vectors(1)[0]
    assert filled(-vector[None, :]).history().nearest(vector) == pytest.approx(-1.0, abs=1e-6)
    assert EMPTY.plus(-vector).nearest(vector) == pytest.approx(-1.0, abs=1e-6)


def test_where_nothing_was_before_nothing_is_near():
    assert EMPTY.nearest(unit_vectors(1)[0]) is None
    assert NoveltyIndex().history().nearest(unit_vectors(1)[0]) is None


def test_old_histories_stay_true_while_the_index_grows():
    vectors, query = unit_vectors(1200), unit_vectors(1, seed=1)[0]
    index, histories = NoveltyIndex(), []
    for count, vector in enumerate(vectors):
        if count % 50 == 0:
            histories.append((count, index.history(), index.history().nearest(query)))
        index.append(vector)
    for count, history, answered in histories:
        assert history.rows.shape[0] == count
        assert np.array_equal(history.rows, vectors[:count].reshape(history.rows.shape))
        assert history.nearest(query) == answered


def test_a_turns_own_questions_count_beside_the_earlier_ones():
    vectors, own = unit_vectors(5), unit_vectors(3, seed=2)
    history = filled(vectors).history().plus(own[0]).plus(own[1])
    for query in unit_vectors(10, seed=3):
        assert history.nearest(query) == pytest.approx(brute_force(np.vstack([vectors, own[:2]]), query), abs=2e-6)
    assert history.nearest(own[1]) == pytest.approx(1.0, abs=1e-6)
    assert history.plus(own[2]).nearest(own[2]) == pytest.approx(1.0, abs=1e-6)


def test_plus_changes_no_one_else():
    index = filled(unit_vectors(5))
    history = index.history()
    one, other = history.plus(unit_vectors(1, seed=4)[0]), history.plus(unit_vectors(1, seed=5)[0])
    assert (len(history.own), len(one.own), len(other.own), len(index)) == (0, 1, 1, 5)


def test_similarity_is_the_cosine_of_unit_vectors_rounded():
    one, other = unit_vectors(2)
    assert similarity(one, other) == pytest.approx(brute_force(one[None, :], other), abs=2e-6)
    assert similarity(one, other) == round(similarity(one, other), 6)
    assert similarity(one, -one) == pytest.approx(-1.0, abs=1e-6)
