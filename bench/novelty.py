"""Measures one novelty query against a large index, compared with reading the matrix from memory in the same process.

    python bench/novelty.py [--rows 100000] [--dimensions 1536] [--rounds 15]

The matrix is read in three ways, and the query is compared with the fastest of them: numpy's sum over the matrix,
BLAS's dot product of the matrix with itself (with as many threads as the query), and a copy of each block into a buffer
that stays in the cache. The measurements alternate, so that other load affects them equally, and medians are compared.
The script also measures the slowest append, and the peak memory of its process.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

from nanoflux_local.records import Vector
from nanoflux_local.run.novelty import History, NoveltyIndex, bound_rounding_error


def draw_unit_vectors(
    rng: np.random.Generator, rows: int, dimensions: int
) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Unit vectors with a common component, like sentence embeddings: two of them have a cosine of about 0.5."""
    vectors = rng.standard_normal((rows, dimensions), dtype=np.float32)
    vectors[:, 0] += np.float32(dimensions**0.5)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def fill(rows: int, dimensions: int) -> tuple[NoveltyIndex, float]:
    """Fill an index with the vectors of `rows` questions. Returns the index, and the time of the slowest append in
    milliseconds.
    """
    index = NoveltyIndex()
    slowest_append_s = 0.0
    rng = np.random.default_rng(0)
    while len(index) < rows:
        for vector in draw_unit_vectors(rng, min(1000, rows - len(index)), dimensions):
            start = time.perf_counter()
            index.append(vector)
            slowest_append_s = max(slowest_append_s, time.perf_counter() - start)
    return index, 1000 * slowest_append_s


def build_readers(history: History) -> dict[str, Callable[[], object]]:
    """Functions that read every number of the matrix once, by the name of the method."""
    flat_blocks = [block.reshape(-1) for block in history.blocks]
    buffer = np.empty(1 << 15, dtype=np.float32)

    def copy_blocks() -> None:
        for block in flat_blocks:
            for start in range(0, len(block), len(buffer)):
                part = block[start : start + len(buffer)]
                np.copyto(buffer[: len(part)], part)

    return {
        "sum": lambda: [block.sum() for block in flat_blocks],
        "dot": lambda: [block @ block for block in flat_blocks],
        "copy": copy_blocks,
    }


def measure_ms(action: Callable[[], object]) -> float:
    """The milliseconds that an action takes."""
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def measure(history: History, queries: list[Vector]) -> dict[str, list[float]]:
    """Measure each method of reading the matrix, the query, and the matrix product alone, once for each of `queries`.
    Returns the milliseconds by the name of the action.
    """
    times: dict[str, list[float]] = {}
    for query in queries:
        actions = {
            **build_readers(history),
            "query": lambda query=query: history.nearest_similarity(query),
            "product": lambda query=query: [block @ query for block in history.blocks],
        }
        for name, action in actions.items():
            times.setdefault(name, []).append(measure_ms(action))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="questions in the index")
    parser.add_argument("--dimensions", type=int, default=1536, help="numbers of each vector")
    parser.add_argument("--rounds", type=int, default=15, help="measured queries")
    options = parser.parse_args()
    index, slowest_append_ms = fill(options.rows, options.dimensions)
    history = index.history()
    queries = list(draw_unit_vectors(np.random.default_rng(1), options.rounds, options.dimensions))
    median_ms = {name: statistics.median(series) for name, series in measure(history, queries).items()}
    reading_ms = min(median_ms[name] for name in build_readers(history))
    matrix_bytes = sum(block.nbytes for block in history.blocks)
    exact_row_counts = [count_exact_rows(history, query, options.dimensions) for query in queries]
    figures = {
        "rows": options.rows,
        "dimensions": options.dimensions,
        "matrix_mb": round(matrix_bytes / 1e6, 1),
        "median_ms": {name: round(value, 2) for name, value in median_ms.items()},
        "read_gb_per_s": round(matrix_bytes / reading_ms / 1e6, 1),
        "query_over_reading": round(median_ms["query"] / reading_ms, 2),
        "rows_looked_at_exactly": {"median": statistics.median(exact_row_counts), "most": max(exact_row_counts)},
        "slowest_append_ms": round(slowest_append_ms, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    }
    print(json.dumps(figures, indent=2))


def count_exact_rows(history: History, query: Vector, dimensions: int) -> int:
    """The number of rows whose dot products are so close to the largest that a query recomputes their similarities with
    correct rounding.
    """
    products = np.concatenate([block @ query for block in history.blocks])
    closest_products = products >= products.max() - 2 * bound_rounding_error(dimensions)
    return int(closest_products.sum())


if __name__ == "__main__":
    main()
