"""Helpers for Prometheus metrics: one registry per process, shared buckets, the common four.

Owns naming (`shoal_<service>_<noun>_<unit>`) and buckets. Each service declares its own metrics
in its `metrics.py`, on the registry that its `app.py` made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from shoal_common.errors import ShoalError

DURATION_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
"""Seconds. A reply may take ten minutes, so the histogram must reach that far."""

TOKEN_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Seconds from one token to the next."""


def new_registry() -> CollectorRegistry:
    """A registry of this process alone, with its memory, CPU and open files."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def metric_name(service: str, name: str) -> str:
    """`shoal_<service>_<name>` with the service's hyphens as underscores."""
    return f"shoal_{service.replace('-', '_')}_{name}"


def counter(
    registry: CollectorRegistry, service: str, name: str, help_text: str, labels: Sequence[str] = ()
) -> Counter:
    """A counter; `name` ends in its unit, `_total` is added on the wire."""
    return Counter(metric_name(service, name), help_text, labels, registry=registry)


def gauge(
    registry: CollectorRegistry, service: str, name: str, help_text: str, labels: Sequence[str] = ()
) -> Gauge:
    return Gauge(metric_name(service, name), help_text, labels, registry=registry)


def histogram(
    registry: CollectorRegistry,
    service: str,
    name: str,
    help_text: str,
    labels: Sequence[str] = (),
    *,
    buckets: Sequence[float] = DURATION_BUCKETS_S,
) -> Histogram:
    return Histogram(
        metric_name(service, name), help_text, labels, buckets=buckets, registry=registry
    )


class RequestMetrics:
    """What every service counts of its requests: how many by outcome, how long, how many now."""

    def __init__(self, registry: CollectorRegistry, service: str) -> None:
        self._total = counter(
            registry, service, "requests", "Requests by outcome.", ("method", "outcome")
        )
        self._duration = histogram(
            registry, service, "duration_seconds", "Time from start to end.", ("method",)
        )
        self._in_flight = gauge(
            registry, service, "in_flight", "Requests running now.", ("method",)
        )

    @contextmanager
    def observed(self, method: str) -> Iterator[None]:
        """Count what happens inside as one request; errors count under their reason."""
        start = perf_counter()
        outcome = "OK"
        self._in_flight.labels(method).inc()
        try:
            yield
        except ShoalError as err:
            outcome = err.reason
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "CANCELLED"
            raise
        except BaseException:
            outcome = "INTERNAL"
            raise
        finally:
            self._in_flight.labels(method).dec()
            self._duration.labels(method).observe(perf_counter() - start)
            self._total.labels(method, outcome).inc()
