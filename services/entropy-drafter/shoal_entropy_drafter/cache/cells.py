"""A scope's vectors in cells, so that a search need not read all of them. Pure.

Each of `BITS` random planes through the origin has two sides; a vector's cell is the sides it lies
on. Where planes are drawn at random, how far two vectors of cosine c lie from one is a pair of
normal numbers of correlation c, whatever the vectors are: so from a vector's own distances follows
how probable each cell is for a neighbour of it. Reading the most probable ones finds 99 in 100 of
the neighbours just at the bound, and more of the nearer ones. At a cosine of 0.95 and 384 numbers
that is 0.3 to 3 % of the cells, 1.2 % in the middle; for one vector in a hundred it would be too
many, and the whole scope is read.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shoal_entropy_drafter.cache.base import Vector

BITS = 12
_SEED = 20240229
# Share of the neighbours of a given cosine that lie in the cells read.
_SHARE = 0.99
_SHARE_LEAST = 0.9
# Beyond this a filter of so many cells costs as much as reading the whole scope.
_CELLS_MAX = 128


class Cells:
    """Cells of vectors with `dimensions` numbers. The same in every process, for they are kept."""

    def __init__(self, dimensions: int) -> None:
        # The one generator whose numbers never change from a numpy to the next.
        planes = np.random.RandomState(_SEED).standard_normal((BITS, dimensions))
        self._planes = planes.astype(np.float32)
        self._weights = 1 << np.arange(BITS)

    def cell(self, vector: Vector) -> int:
        """In which of the 2**BITS cells it lies."""
        return int((self._distances(vector) > 0) @ self._weights)

    def probable(self, vector: Vector, similarity_min: float) -> list[int] | None:
        """Cells where neighbours of that cosine or more lie; None where it could be too many."""
        if similarity_min >= 1.0:
            return [self.cell(vector)]
        if similarity_min <= 0.0:
            return None
        distances = self._distances(vector)
        likely = _probabilities(distances, similarity_min)
        first = np.argpartition(-likely, _CELLS_MAX)[:_CELLS_MAX]
        order = first[np.argsort(-likely[first])]
        shares = np.cumsum(likely[order])
        if shares[-1] < _SHARE_LEAST:
            return None
        count = int(np.searchsorted(shares, _SHARE)) + 1
        own = int((distances > 0) @ self._weights)
        return [own ^ int(flips) for flips in order[:count]]

    def _distances(self, vector: Vector) -> Vector:
        """From each plane, as normal numbers of deviation 1: (BITS,)."""
        length = float(np.linalg.norm(vector)) or 1.0
        distances: Vector = self._planes @ (vector / length)
        return distances


def _probabilities(distances: Vector, similarity: float) -> NDArray[np.float64]:
    """Of each set of planes, by its bits, that a neighbour lies on their other side: (2**BITS,)."""
    spread = math.sqrt(1 - similarity**2)
    likely = np.ones(1)
    for distance in distances:
        other = 0.5 * math.erfc(similarity * abs(float(distance)) / (spread * math.sqrt(2)))
        likely = np.concatenate([likely * (1 - other), likely * other])
    return likely
