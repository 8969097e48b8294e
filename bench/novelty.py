"""What one novelty query costs at size, over what reading the matrix from memory takes, in the same process.

    python bench/novelty.py [--rows 100000] [--dimensions 1536] [--rounds 15]

Reading is measured three ways, and the fastest is what the query is held against: a sum over the matrix by numpy, a
dot product of it with itself by BLAS (as many threads as the query's product has), and a copy of each block into a
buffer that stays in the processor's cache. The measurements take turns, so that what else the machine does hits them
alike, and medians are compared. Growing is measured too: the slowest of all appends, and the memory at the end.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

from nanoflux_local.records import Vector
from nanoflux_local.run.novelty import History, NoveltyIndex, rounding_error


def unit(rng: np.random.Generator, rows: int, dimensions: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    """Directions that share a part, as sentence embeddings do: two of them have a cosine of about 0.5."""
    found = rng.standard_normal((rows, dimensions), dtype=np.float32)
    found[:, 0] += np.float32(dimensions**0.5)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def fill(rows: int, dimensions: int) -> tuple[NoveltyIndex, float]:
    """An index of `rows` questions, and the slowest append in milliseconds."""
    index, slowest = NoveltyIndex(), 0.0
    rng = np.random.default_rng(0)
    while len(index) < rows:
        for vector in unit(rng, min(1000, rows - len(index)), dimensions):
            began = time.perf_counter()
            index.append(vector)
            slowest = max(slowest, time.perf_counter() - began)
    return index, 1000 * slowest


def readings(history: History) -> dict[str, Callable[[], object]]:
    """The ways to read every byte of the matrix once."""
    flat = [block.reshape(-1) for block in history.blocks]
    buffer = np.empty(1 << 15, dtype=np.float32)

    def copied() -> None:
        for block in flat:
            for start in range(0, len(block), len(buffer)):
                part = block[start : start + len(buffer)]
                np.copyto(buffer[: len(part)], part)

    return {
        "sum": lambda: [block.sum() for block in flat],
        "dot": lambda: [block @ block for block in flat],
        "copy": copied,
    }


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)


def measured(history: History, queries: list[Vector]) -> dict[str, list[float]]:
    """Milliseconds of each way to read, of the query, and of the product alone, in turns."""
    times: dict[str, list[float]] = {}
    for query in queries:
        actions = {
            **readings(history),
            "query": lambda query=query: history.nearest(query),
            "product": lambda query=query: [block @ query for block in history.blocks],
        }
        for name, action in actions.items():
            times.setdefault(name, []).append(timed(action))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    index, slowest = fill(given.rows, given.dimensions)
    history = index.history()
    queries = list(unit(np.random.default_rng(1), given.rounds, given.dimensions))
    times = {name: statistics.median(found) for name, found in measured(history, queries).items()}
    reading = min(times[name] for name in readings(history))
    rough = [np.concatenate([block @ query for block in history.blocks]) for query in queries]
    looked_at = [int((each >= each.max() - 2 * rounding_error(given.dimensions)).sum()) for each in rough]
    print(
        json.dumps(
            {
                "rows": given.rows,
                "dimensions": given.dimensions,
                "matrix_mb": round(sum(block.nbytes for block in history.blocks) / 1e6, 1),
                "median_ms": {name: round(value, 2) for name, value in times.items()},
                "read_gb_per_s": round(sum(block.nbytes for block in history.blocks) / reading / 1e6, 1),
                "query_over_reading": round(times["query"] / reading, 2),
                "rows_looked_at_exactly": {"median": statistics.median(looked_at), "most": max(looked_at)},
                "slowest_append_ms": round(slowest, 2),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
