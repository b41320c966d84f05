"""What this service counts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shoal_common.clock import Clock
from shoal_common.metrics import DURATION_BUCKETS_S, TOKEN_BUCKETS_S
from shoal_gateway.task import Event, Finished, TextDelta


class Metrics:
    """All metric objects; labels come from closed sets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "shoal_gateway_requests_total",
            "Requests by route and outcome.",
            ("route", "outcome"),
            registry=registry,
        )
        self.duration = Histogram(
            "shoal_gateway_duration_seconds",
            "Time from the request's head to the end of its answer.",
            ("route",),
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "shoal_gateway_in_flight", "Requests being answered.", registry=registry
        )
        self.background_responses = Gauge(
            "shoal_gateway_background_responses",
            "Responses being answered without a connection.",
            registry=registry,
        )
        self.time_to_first_token = Histogram(
            "shoal_gateway_time_to_first_token_seconds",
            "Time from a parsed request to its first text.",
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.time_per_output_token = Histogram(
            "shoal_gateway_time_per_output_token_seconds",
            "Mean time between the tokens of one answer.",
            buckets=TOKEN_BUCKETS_S,
            registry=registry,
        )
        self.tokens = Counter(
            "shoal_gateway_tokens_total", "Tokens by kind.", ("kind",), registry=registry
        )


async def observed(
    events: AsyncGenerator[Event, None], metrics: Metrics, clock: Clock
) -> AsyncGenerator[Event, None]:
    """The same events, measured on their way."""
    started_at = clock.monotonic()
    first_at: float | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta) and first_at is None:
                first_at = clock.monotonic()
                metrics.time_to_first_token.observe(first_at - started_at)
            if isinstance(event, Finished):
                metrics.tokens.labels("prompt").inc(event.usage.prompt_tokens)
                metrics.tokens.labels("completion").inc(event.usage.completion_tokens)
                gaps = event.usage.completion_tokens - 1
                if first_at is not None and gaps > 0:
                    elapsed_s = clock.monotonic() - first_at
                    metrics.time_per_output_token.observe(elapsed_s / gaps)
            yield event
