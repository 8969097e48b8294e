"""Novelty (paper §3): is the question unlike every earlier question, and the defence unlike the attacker's solution?

A float32 matrix product finds the rows that could be nearest: the candidates. Its last bits depend on shapes, threads
and the processor, so a similarity near the threshold could fall on either side. The similarities of the candidates are
therefore recomputed with correct rounding, and only these are compared with the threshold and stored.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nanoflux_local.records import Vector, similarity

Matrix = npt.NDArray[np.float32]
"""Unit vectors as rows: shape (rows, dimensions)."""
BLOCK_BYTES = 1 << 24
"""Rows are stored in blocks of this size, so that the index grows without copying a large matrix."""


class NoveltyIndex:
    """The vectors of all parsed questions in turn order, stored as blocks of unit vectors of shape (questions,
    dimensions).

    Rows are only appended, so a `History` of the first n rows stays valid while the index grows.
    """

    def __init__(self) -> None:
        self._blocks: list[Matrix] = []
        self._free_rows = 0  # at the end of the last block

    def __len__(self) -> int:
        return sum(len(block) for block in self._blocks) - self._free_rows

    def append(self, vector: Vector) -> None:
        """Add one unit vector of shape (dimensions,)."""
        if not self._free_rows:
            self._free_rows = max(1, BLOCK_BYTES // vector.nbytes)
            self._blocks.append(np.empty((self._free_rows, len(vector)), dtype=np.float32))
        self._blocks[-1][-self._free_rows] = vector
        self._free_rows -= 1

    def history(self) -> "History":
        """A snapshot of the index, which later questions do not change. It contains views of the rows, not copies."""
        if not self._free_rows:
            return History(tuple(self._blocks))
        return History((*self._blocks[:-1], self._blocks[-1][: -self._free_rows]))


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """The vectors of earlier questions: those of the preceding turns (`blocks`), and those of the current turn's
    attempts so far (`own_questions`).
    """

    blocks: tuple[Matrix, ...] = ()
    own_questions: tuple[Vector, ...] = ()

    def plus(self, *vectors: Vector) -> "History":
        """This history with more questions of the current turn."""
        return History(self.blocks, (*self.own_questions, *vectors))

    def nearest_similarity(self, vector: Vector) -> float | None:
        """The largest cosine similarity to any earlier question, or None if there is no earlier question."""
        blocks = (*self.blocks, np.stack(self.own_questions)) if self.own_questions else self.blocks
        if not blocks:
            return None
        rough_products = [block @ vector for block in blocks]
        cutoff = max(float(products.max()) for products in rough_products) - 2 * bound_rounding_error(len(vector))
        candidates: dict[bytes, Vector] = {}  # by their bytes, so that equal rows are compared once
        for block, products in zip(blocks, rough_products, strict=True):
            for row in block[products >= cutoff]:
                candidates[row.tobytes()] = row
        return max(similarity(row, vector) for row in candidates.values())


def bound_rounding_error(dimensions: int) -> float:
    """An upper bound on the rounding error of a float32 dot product of two unit vectors, whatever the order of
    summation: the bound n·u / (1 - n·u) of Higham, "Accuracy and Stability of Numerical Algorithms", §3.1, doubled
    because rounding makes the vectors' lengths differ slightly from 1.
    """
    return dimensions * float(np.finfo(np.float32).eps)
