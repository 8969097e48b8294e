"""The novelty index: similarities are exact to the last digit at any size, and a history does not change as the index
grows.
"""

from fractions import Fraction

import numpy as np
import pytest

from nanoflux_local.records import similarity
from nanoflux_local.run import novelty
from nanoflux_local.run.novelty import History, NoveltyIndex, bound_rounding_error

EMPTY_HISTORY = History()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the blocks so small that a few hundred vectors fill several: 256 vectors of 32 dimensions in a block."""
    monkeypatch.setattr(novelty, "BLOCK_BYTES", 256 * 32 * 4)


def draw_unit_vectors(count: int, dimensions: int = 32, seed: int = 0) -> np.ndarray:
    """Random unit vectors, shape (count, dimensions)."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def compute_nearest(earlier: np.ndarray, vector: np.ndarray) -> float:
    """The largest similarity of `vector` to a row of `earlier`, computed with exact fractions."""
    return max(round(float(multiply_exactly(row, vector)), 6) for row in earlier)


def multiply_exactly(left: np.ndarray, right: np.ndarray) -> Fraction:
    """The dot product of two vectors without rounding."""
    products = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(left, right, strict=True)]
    return sum(products, Fraction(0))


def fill_index(vectors: np.ndarray) -> NoveltyIndex:
    index = NoveltyIndex()
    for vector in vectors:
        index.append(vector)
    return index


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 600])
def test_nearest_similarity_equals_the_largest_exact_similarity(count):
    vectors, queries = draw_unit_vectors(count), draw_unit_vectors(4, seed=1)
    index = fill_index(vectors)
    assert len(index) == count
    for query in queries:
        assert index.history().nearest_similarity(query) == compute_nearest(vectors, query)


def test_nearest_similarity_of_an_indexed_vector_is_one():
    vectors = draw_unit_vectors(300)
    history = fill_index(vectors).history()
    assert [history.nearest_similarity(vector) for vector in vectors] == pytest.approx([1.0] * 300, abs=1e-6)


def test_nearest_similarity_of_opposite_vectors_is_negative():
    """A similarity below 0 is reported like any other."""
    vector = draw_unit_vectors(1)[0]
    assert fill_index(-vector[None, :]).history().nearest_similarity(vector) == pytest.approx(-1.0, abs=1e-6)
    assert EMPTY_HISTORY.plus(-vector).nearest_similarity(vector) == pytest.approx(-1.0, abs=1e-6)


def test_nearest_similarity_is_none_without_earlier_questions():
    assert EMPTY_HISTORY.nearest_similarity(draw_unit_vectors(1)[0]) is None
    assert NoveltyIndex().history().nearest_similarity(draw_unit_vectors(1)[0]) is None


def test_history_does_not_change_while_the_index_grows():
    vectors, query = draw_unit_vectors(1200), draw_unit_vectors(1, seed=1)[0]
    index, snapshots = NoveltyIndex(), []
    for count, vector in enumerate(vectors):
        if count % 50 == 0:
            snapshots.append((count, index.history(), index.history().nearest_similarity(query)))
        index.append(vector)
    for count, history, expected in snapshots:
        rows = np.concatenate(history.blocks) if count else vectors[:0]
        assert np.array_equal(rows, vectors[:count])
        assert history.nearest_similarity(query) == expected


def test_earlier_questions_of_the_same_turn_are_compared_too():
    vectors, own = draw_unit_vectors(5), draw_unit_vectors(3, seed=2)
    history = fill_index(vectors).history().plus(own[0]).plus(own[1])
    for query in draw_unit_vectors(10, seed=3):
        assert history.nearest_similarity(query) == compute_nearest(np.vstack([vectors, own[:2]]), query)
    assert history.nearest_similarity(own[1]) == pytest.approx(1.0, abs=1e-6)
    assert history.plus(own[2]).nearest_similarity(own[2]) == pytest.approx(1.0, abs=1e-6)


def test_history_plus_leaves_the_original_history_unchanged():
    index = fill_index(draw_unit_vectors(5))
    history = index.history()
    first_question, second_question = draw_unit_vectors(2, seed=4)
    first, second = history.plus(first_question), history.plus(second_question)
    assert (len(first.own_questions), len(second.own_questions)) == (1, 1)
    assert len(history.own_questions) == 0 and len(index) == 5


def test_similarity_is_the_rounded_cosine():
    left, right = draw_unit_vectors(2)
    assert similarity(left, right) == compute_nearest(left[None, :], right)
    assert similarity(left, -left) == pytest.approx(-1.0, abs=1e-6)


def test_growing_the_index_copies_no_row():
    vectors = draw_unit_vectors(700)
    index = fill_index(vectors[:300])
    early_blocks = index.history().blocks
    for vector in vectors[300:]:
        index.append(vector)
    late_blocks = index.history().blocks
    assert [len(block) for block in late_blocks] == [256, 256, 188]
    for early_block, late_block in zip(early_blocks, late_blocks, strict=False):
        assert np.shares_memory(early_block, late_block)


def test_nearest_similarity_does_not_depend_on_other_rows():
    """In a matrix product, the last bits of a row's result depend on the other rows. The error stays within the bound,
    so the similarity is exact.
    """
    vectors, query = draw_unit_vectors(600, dimensions=33, seed=6), draw_unit_vectors(1, dimensions=33, seed=7)[0]
    near_vectors = query + 0.01 * vectors
    near_vectors /= np.linalg.norm(near_vectors, axis=1, keepdims=True)
    # The products of the same 60 rows, computed alone and together with 539 or 540 other rows.
    float_products = [float((near_vectors[:count] @ query)[row]) for count in (60, 599, 600) for row in range(60)]
    exact_products = [float(multiply_exactly(row, query)) for row in near_vectors[:60]] * 3
    errors = np.abs(np.array(float_products) - np.array(exact_products))
    assert errors.max() < bound_rounding_error(33)
    nearest = compute_nearest(near_vectors, query)
    # If the rows are split between two indexes at any row, the larger of the two similarities is the same.
    for count in (1, 2, 3, 7, 64, 599):
        nearest_of_first = fill_index(near_vectors[:count]).history().nearest_similarity(query)
        nearest_of_others = fill_index(near_vectors[count:]).history().nearest_similarity(query)
        assert max(nearest_of_first, nearest_of_others) == nearest
    # The rows may be in any order.
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(near_vectors)
        assert fill_index(shuffled).history().nearest_similarity(query) == nearest


def test_rounding_error_within_the_bound_changes_no_similarity(monkeypatch: pytest.MonkeyPatch):
    """Even if rounding errors rank another row first, the result is the similarity of the nearest row."""
    query = draw_unit_vectors(1)[0]
    other_vector = draw_unit_vectors(1, seed=1)[0]
    direction = other_vector - (other_vector @ query) * query  # orthogonal to the query
    direction /= np.linalg.norm(direction)
    angles = np.sqrt(np.linspace(0, bound_rounding_error(32), 40))
    near_vectors = np.stack([np.cos(angle) * query + np.sin(angle) * direction for angle in angles]).astype(np.float32)
    nearest = compute_nearest(near_vectors, query)

    class InexactArray(np.ndarray):
        """An array whose matrix products have errors of up to half the bound."""

        def __matmul__(self, vector):
            product = np.asarray(self) @ vector
            return (product + bound_rounding_error(32) * np.linspace(-0.5, 0.5, len(product))).astype(np.float32)

    assert np.argmax(near_vectors.view(InexactArray) @ query) != np.argmax(near_vectors @ query)
    assert History((near_vectors.view(InexactArray),)).nearest_similarity(query) == nearest
