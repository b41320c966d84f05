"""Which gaps belong to an intrusion."""

from __future__ import annotations

from bench.engine.long_prompts import split_gaps


def test_gaps_are_split_at_the_arrival() -> None:
    """The first two are warm-up; one spans the arrival, one the end, the last is after it."""
    times = [0.0, 5.0, 10.0, 11.0, 12.0, 15.0, 16.0, 20.0, 21.0]
    before, during = split_gaps([times], arrived=12.5, ended=18.0)
    assert before == [1.0, 1.0]
    assert during == [3.0, 1.0, 4.0]
