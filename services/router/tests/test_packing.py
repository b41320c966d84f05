from __future__ import annotations

import random

import pytest

from shoal_router.packing import Packing, packing


def packed(worth: list[float], rows: dict[str, dict[int, float]]) -> Packing[str]:
    steps = packing(worth, rows)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: Packing[str] = done.value
            return found


def test_one_column_takes_its_tightest_row() -> None:
    found = packed([1.0], {"loose": {0: 0.5}, "tight": {0: 4.0}})
    assert found.amounts == pytest.approx([0.25])
    assert found.prices == pytest.approx({"tight": 0.25})


def test_of_two_that_share_a_row_the_one_worth_more_takes_it() -> None:
    rows = {"shared": {0: 1.0, 1: 1.0}, "first": {0: 1.0}, "second": {1: 1.0}}
    found = packed([0.9, 1.0], rows)
    assert found.amounts == pytest.approx([0.0, 1.0])
    assert found.prices.get("shared", 0.0) + found.prices.get("second", 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(60))
def test_what_is_found_is_feasible_and_as_much_as_the_prices_say(seed: int) -> None:
    """Prices under which no column is worth more than it costs prove that there is no more."""
    rng = random.Random(seed)
    count = rng.randint(1, 8)
    worth = [rng.uniform(0.5, 1.0) for _ in range(count)]
    rows = {
        f"row-{r}": {j: rng.uniform(0.1, 5.0) for j in range(count) if rng.random() < 0.6}
        for r in range(rng.randint(1, 10))
    }
    rows |= {f"own-{j}": {j: rng.uniform(0.1, 2.0)} for j in range(count)}
    found = packed(worth, rows)
    for row in rows.values():
        assert sum(found.amounts[j] * amount for j, amount in row.items()) <= 1 + 1e-6
    total = sum(w * x for w, x in zip(worth, found.amounts, strict=True))
    assert total == pytest.approx(sum(found.prices.values()))
    for j in range(count):
        cost = sum(found.prices.get(name, 0.0) * row.get(j, 0.0) for name, row in rows.items())
        assert cost >= worth[j] - 1e-6
