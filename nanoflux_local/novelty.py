"""Novelty, both stages (paper §3): is the question unlike every earlier one; is the solution unlike the attacker's?

Exact cosine similarities over unit vectors, float32, one matrix-vector product per question.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nanoflux_local.records import Vector

Matrix = npt.NDArray[np.float32]
_FIRST_ROWS = 256


class NoveltyIndex:
    """Every question that passed parsing, in turn order: unit vectors of shape (questions, dimensions).

    Rows are only ever appended, so a `History` of the first n rows stays true while the index grows.
    """

    def __init__(self) -> None:
        self._rows: Matrix = np.empty((0, 0), dtype=np.float32)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, vector: Vector) -> None:
        """Add one unit vector of shape (dimensions,); room doubles, so that appending stays cheap."""
        if self._count == len(self._rows):
            grown = np.empty((max(_FIRST_ROWS, 2 * self._count), vector.shape[0]), dtype=np.float32)
            if self._count:
                grown[: self._count] = self._rows
            self._rows = grown
        self._rows[self._count] = vector
        self._count += 1

    def history(self) -> "History":
        """What is known now, as a value that later questions do not change."""
        return History(self._rows[: self._count])


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """The questions before a turn (`rows`), and those of its own earlier attempts (`own`)."""

    rows: Matrix
    own: tuple[Vector, ...] = ()

    def plus(self, vector: Vector) -> "History":
        return History(self.rows, (*self.own, vector))

    def nearest(self, vector: Vector) -> float | None:
        """The largest cosine similarity to any earlier question, or None where there is none."""
        found = [float(vector @ other) for other in self.own]
        if len(self.rows):
            found.append(float(np.max(self.rows @ vector)))
        return round(max(found), 6) if found else None


def similarity(one: Vector, other: Vector) -> float:
    """Cosine similarity of two unit vectors, rounded to 6 digits."""
    return round(float(one @ other), 6)
