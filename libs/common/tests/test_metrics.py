"""Every service counts its requests the same way."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from shoal_common.errors import Overloaded
from shoal_common.metrics import DURATION_BUCKETS_S, RequestMetrics, new_registry


def _total(registry: CollectorRegistry, outcome: str) -> float | None:
    labels = {"method": "Plan", "outcome": outcome}
    return registry.get_sample_value("shoal_shard_store_requests_total", labels)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Overloaded("full"), "OVERLOADED"),
        (asyncio.CancelledError(), "CANCELLED"),
        (KeyError("x"), "INTERNAL"),
    ],
)
def test_a_failed_request_counts_under_its_reason(error: BaseException, outcome: str) -> None:
    registry = new_registry()
    requests = RequestMetrics(registry, "shard-store")
    with pytest.raises(type(error)), requests.observed("Plan"):
        raise error
    assert _total(registry, outcome) == 1
    assert _total(registry, "OK") is None


def test_a_request_is_in_flight_until_it_ends() -> None:
    registry = new_registry()
    requests = RequestMetrics(registry, "shard_store")
    name, labels = "shoal_shard_store_in_flight", {"method": "Plan"}
    with requests.observed("Plan"):
        assert registry.get_sample_value(name, labels) == 1
    assert registry.get_sample_value(name, labels) == 0
    assert _total(registry, "OK") == 1
    assert registry.get_sample_value("shoal_shard_store_duration_seconds_count", labels) == 1


def test_buckets_reach_ten_minutes() -> None:
    assert max(DURATION_BUCKETS_S) == 600
    assert list(DURATION_BUCKETS_S) == sorted(DURATION_BUCKETS_S)
