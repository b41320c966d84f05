"""Statistics of a benchmark are pure functions of what was measured."""

import pytest

from shoal_cli.bench import BenchOptions, Measured, percentile, summarise, table


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([7.0], 99, 7.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([1.0, 2.0], 50, 1.5),
        ([float(value) for value in range(101)], 99, 99.0),
        ([1.0, 2.0, 3.0], 100, 3.0),
    ],
)
def test_percentile(values: list[float], percent: float, expected: float | None) -> None:
    assert percentile(values, percent) == expected


def test_summary_counts_concurrent_time_once() -> None:
    measured = [
        Measured(10.0, 12.0, 30, (10.5, 11.0, 12.0)),
        Measured(10.0, 13.0, 30, (10.3, 13.0)),
    ]
    summary = summarise(measured)
    assert summary.tokens_per_s == pytest.approx(20.0)
    assert summary.first_token_ms_p50 == pytest.approx(400.0)
    assert summary.gap_ms_p50 == pytest.approx(1000.0)
    assert summary.gap_ms_p99 == pytest.approx(2666.0)


def test_without_streaming_there_are_no_token_times() -> None:
    summary = summarise([Measured(0.0, 2.0, 10)])
    assert summary.tokens_per_s == 5.0
    assert summary.first_token_ms_p50 is None
    assert summary.gap_ms_p99 is None
    assert table(BenchOptions("m", "p"), summary).row_count == 4


def test_every_caller_sends_every_iteration() -> None:
    assert BenchOptions("m", "p", iterations=3, concurrency=4).request_count == 12
