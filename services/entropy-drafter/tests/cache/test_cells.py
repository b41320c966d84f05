from __future__ import annotations

import random

import numpy as np
import pytest

from shoal_entropy_drafter.cache.cells import BITS, Cells

from .conftest import unit

SIZE = 384


def neighbours(count: int, similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """Random vectors, and one of just that cosine to each."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, SIZE))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    aside = rng.standard_normal((count, SIZE))
    aside -= np.sum(aside * vectors, axis=1, keepdims=True) * vectors
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    others = similarity * vectors + np.sqrt(1 - similarity**2) * aside
    return vectors.astype(np.float32), others.astype(np.float32)


@pytest.mark.parametrize(("similarity", "share"), [(0.95, 0.95), (0.97, 0.97), (0.99, 0.985)])
def test_neighbours_at_the_bound_lie_in_the_probable_cells(similarity: float, share: float) -> None:
    cells = Cells(SIZE)
    vectors, others = neighbours(600, similarity)
    read = [cells.probable(vector, 0.95) for vector in vectors]
    found = [
        probable is None or cells.cell(other) in probable
        for probable, other in zip(read, others, strict=True)
    ]
    # 98 to 99 in 100 are, so that fewer than this many come up less than once in a million runs.
    assert sum(found) / len(found) >= share


def test_few_cells_are_read_at_the_usual_bound() -> None:
    cells = Cells(SIZE)
    vectors, _ = neighbours(200, 0.95)
    read = [cells.probable(vector, 0.95) for vector in vectors]
    counts = [len(probable) for probable in read if probable is not None]
    assert len(counts) >= 0.85 * len(read)
    assert np.median(counts) < 0.05 * 2**BITS


def test_a_low_bound_reads_the_whole_scope_and_the_highest_one_cell() -> None:
    cells = Cells(SIZE)
    vector = unit(1, 2, 3, size=SIZE)
    assert cells.probable(vector, 0.5) is None
    assert cells.probable(vector, -1.0) is None
    assert cells.probable(vector, 1.0) == [cells.cell(vector)]


def test_a_vectors_own_cell_comes_first() -> None:
    cells = Cells(SIZE)
    for vector in neighbours(50, 0.95)[0]:
        probable = cells.probable(vector, 0.95)
        assert probable is None or probable[0] == cells.cell(vector)


def test_cells_are_the_same_in_every_process() -> None:
    """They are kept on disk: other numbers here would lose what was kept before."""
    cells = Cells(8)
    made = [cells.cell(unit(*(1.0 if i == j else 0.1 for i in range(8)), size=8)) for j in range(8)]
    assert made == WANTED


WANTED = [1303, 3429, 1403, 1494, 963, 1418, 3931, 410]
