"""Owns: how much each of a few pipelines carries, so that all together carry the most. Pure.

Maximise worth . x over x >= 0 with rows . x <= 1, by the simplex method: a few dozen columns and
few rows, so that a dense tableau takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

_EPSILON = 1e-9
_PIVOTS_PER_STEP = 8
_BOLD_PIVOTS_PER_COLUMN = 10
_PIVOTS_PER_COLUMN = 50


Row = TypeVar("Row", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Packing(Generic[Row]):
    """x, and by row what one more unit of it would be worth; rows that are not full have none."""

    amounts: list[float]
    prices: dict[Row, float]


def packing(
    worth: Sequence[float], rows: Mapping[Row, Mapping[int, float]]
) -> Generator[None, None, Packing[Row]]:
    """The best x, in steps of a few pivots. rows: by column, what a unit takes of one; every
    column is in some row.

    Should it not end in time, what it has is feasible.
    """
    count = len(worth)
    names, limits = _essential(rows, count)
    table = [[row.get(j, 0.0) for j in range(count)] + [1.0] for row in limits]
    gain = [*worth, 0.0]
    columns = list(range(count))
    basis = [count + r for r in range(len(limits))]
    for pivot_count in range(_PIVOTS_PER_COLUMN * count):
        enter = _entering(gain, columns, is_careful=pivot_count > _BOLD_PIVOTS_PER_COLUMN * count)
        if enter is None:
            break
        leave = _leaving(table, basis, enter)
        if leave is None:
            break
        _pivot(table, gain, leave, enter)
        columns[enter], basis[leave] = basis[leave], columns[enter]
        if pivot_count % _PIVOTS_PER_STEP == _PIVOTS_PER_STEP - 1:
            yield
    amounts = [0.0] * count
    for variable, row in zip(basis, table, strict=True):
        if variable < count:
            amounts[variable] = max(0.0, row[-1])
    prices = {
        names[variable - count]: max(0.0, -gain[j])
        for j, variable in enumerate(columns)
        if variable >= count
    }
    return Packing(amounts, prices)


def _essential(
    rows: Mapping[Row, Mapping[int, float]], count: int
) -> tuple[list[Row], list[Mapping[int, float]]]:
    """Rows of one column each count only by the tightest of them."""
    tightest: dict[int, tuple[float, Row]] = {}
    names: list[Row] = []
    for name, row in rows.items():
        if len(row) > 1:
            names.append(name)
            continue
        for j, amount in row.items():
            if j not in tightest or amount > tightest[j][0]:
                tightest[j] = (amount, name)
    assert {j for row in rows.values() for j in row} == set(range(count))
    names += [name for _, name in tightest.values()]
    return names, [rows[name] for name in names]


def _entering(gain: Sequence[float], columns: Sequence[int], *, is_careful: bool) -> int | None:
    """The steepest, or by Bland's rule, which cannot go round in circles."""
    able = [j for j in range(len(columns)) if gain[j] > _EPSILON]
    if is_careful:
        return min(able, key=lambda j: columns[j], default=None)
    return max(able, key=lambda j: gain[j], default=None)


def _leaving(table: Sequence[Sequence[float]], basis: Sequence[int], enter: int) -> int | None:
    able = [
        (row[-1] / row[enter], basis[r], r) for r, row in enumerate(table) if row[enter] > _EPSILON
    ]
    return min(able)[2] if able else None


def _pivot(table: list[list[float]], gain: list[float], leave: int, enter: int) -> None:
    """Swaps a column with a row's variable; the tableau has no columns for basic variables."""
    row = table[leave]
    scale = 1.0 / row[enter]
    table[leave] = row = [value * scale for value in row]
    row[enter] = scale
    for r, other in enumerate(table):
        if r != leave and other[enter]:
            factor = other[enter]
            table[r] = [a - factor * b for a, b in zip(other, row, strict=True)]
            table[r][enter] = -factor * scale
    factor = gain[enter]
    gain[:] = [a - factor * b for a, b in zip(gain, row, strict=True)]
    gain[enter] = -factor * scale
