"""Turns, ratios and the meter."""

from __future__ import annotations

import psutil
import pytest

from bench.rounds import Meter, Sample, as_json, interleaved, median, per_cpu_second, ratio


async def test_variants_take_turns_and_warm_ups_are_thrown_away() -> None:
    order: list[str] = []

    async def one(name: str) -> Sample:
        order.append(name)
        return Sample(len(order))

    samples = await interleaved({"a": lambda: one("a"), "b": lambda: one("b")}, 2, warm_ups=1)
    assert order == ["a", "b"] * 3
    assert [sample.value for sample in samples["a"]] == [3, 5]
    assert [sample.value for sample in samples["b"]] == [4, 6]


def test_a_ratio_is_taken_round_by_round() -> None:
    """The machine halves its speed in the last round: the quotient does not notice."""
    fast = [Sample(20), Sample(22), Sample(10)]
    slow = [Sample(10), Sample(10), Sample(5)]
    found = ratio(fast, slow)
    assert (found.median, found.least, found.most) == (2.0, 2.0, 2.2)


def test_a_ratio_needs_as_many_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio([Sample(1), Sample(2)], [Sample(1)])


def test_medians_and_tokens_per_cpu_second() -> None:
    samples = [
        Sample(1, cpu_s=2, details={"tokens": 10}),
        Sample(9, cpu_s=2, details={"tokens": 30}),
        Sample(2, cpu_s=1, details={"tokens": 10}),
    ]
    assert median(samples) == 2
    assert per_cpu_second(samples) == 10
    assert per_cpu_second([Sample(1, details={"tokens": 3})]) == 0


def test_every_round_is_recorded() -> None:
    data = as_json({"a": [Sample(1.5, 2, 3, {"tokens": 4})]})
    assert data == {"a": [{"value": 1.5, "wall_s": 2, "cpu_s": 3, "tokens": 4}]}


def test_the_meter_counts_this_process() -> None:
    own = psutil.Process()
    with Meter(lambda: [own]) as meter:
        total = 0
        while own.cpu_times().user + own.cpu_times().system == meter._cpu_s:
            total += 1
    assert meter.cpu_s > 0
    assert meter.wall_s > 0
