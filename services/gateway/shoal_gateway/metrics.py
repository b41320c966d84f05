"""What this service counts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shoal_common.clock import Clock
from shoal_common.metrics import DURATION_BUCKETS_S, TOKEN_BUCKETS_S
from shoal_gateway.task import Admitted, Event, Finished, TextDelta, Usage


class ProviderFamilies:
    """The metric objects that every provider has a child of."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "shoal_gateway_provider_requests_total",
            "Requests to providers by outcome, each with its retries.",
            ("provider", "outcome"),
            registry=registry,
        )
        self.retries = Counter(
            "shoal_gateway_provider_retries_total",
            "Requests to providers sent once more.",
            ("provider",),
            registry=registry,
        )
        self.duration = Histogram(
            "shoal_gateway_provider_duration_seconds",
            "Time from a request to a provider to the end of its answer, retries included.",
            ("provider",),
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.first_byte = Histogram(
            "shoal_gateway_provider_time_to_first_byte_seconds",
            "Time from a request to a provider to the head of its answer, retries included.",
            ("provider",),
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "shoal_gateway_provider_in_flight",
            "Requests with a provider now.",
            ("provider",),
            registry=registry,
        )
        self.breakers_open = Gauge(
            "shoal_gateway_provider_breakers_open",
            "Models of a provider that are left alone after repeated failures.",
            ("provider",),
            registry=registry,
        )


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
        self.running_count = 0
        self.in_flight.set_function(lambda: self.running_count)
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
        self.providers = ProviderFamilies(registry)
        self._prompt_tokens = self.tokens.labels("prompt")
        self._completion_tokens = self.tokens.labels("completion")
        # Finding a child by its labels takes longer than counting.
        self._ended: dict[tuple[str, str], Counter] = {}
        self._durations: dict[str, Histogram] = {}

    def ended(self, route: str, outcome: str, duration_s: float) -> None:
        """Count one request."""
        counter = self._ended.get((route, outcome))
        if counter is None:
            counter = self._ended[route, outcome] = self.requests.labels(route, outcome)
            self._durations[route] = self.duration.labels(route)
        counter.inc()
        self._durations[route].observe(duration_s)

    def used(self, usage: Usage) -> None:
        """Count the tokens of one answer."""
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._completion_tokens.inc(usage.completion_tokens)


class ProviderMetrics:
    """What is counted of one provider. Its name is one of the twelve or stands in the settings."""

    def __init__(self, metrics: Metrics, provider: str) -> None:
        families = metrics.providers
        self._requests = families.requests
        self._provider = provider
        self._by_outcome: dict[str, Counter] = {}
        self._retries = families.retries.labels(provider)
        self._duration = families.duration.labels(provider)
        self._first_byte = families.first_byte.labels(provider)
        self._in_flight = families.in_flight.labels(provider)
        self._breakers_open = families.breakers_open.labels(provider)

    def watch(self, in_flight: Callable[[], int], breakers_open: Callable[[], int]) -> None:
        """Ask these whenever the metrics are read."""
        self._in_flight.set_function(in_flight)
        self._breakers_open.set_function(breakers_open)

    def began(self, elapsed_s: float) -> None:
        """The head of an answer has come."""
        self._first_byte.observe(elapsed_s)

    def retried(self) -> None:
        """A request goes out again."""
        self._retries.inc()

    def ended(self, outcome: str, elapsed_s: float) -> None:
        """Nothing more comes. `outcome` is of a closed set."""
        self.refused(outcome)
        self._duration.observe(elapsed_s)

    def refused(self, outcome: str) -> None:
        """A request was not sent at all."""
        counter = self._by_outcome.get(outcome)
        if counter is None:
            counter = self._by_outcome[outcome] = self._requests.labels(self._provider, outcome)
        counter.inc()


async def observed(
    events: AsyncGenerator[Event, None],
    metrics: Metrics,
    clock: Clock,
    note: Callable[[Event], None] | None = None,
) -> AsyncGenerator[Event, None]:
    """The same events, measured on their way. `note` is shown the first and the last of them."""
    started_at = clock.monotonic()
    first_at: float | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta) and first_at is None:
                first_at = clock.monotonic()
                metrics.time_to_first_token.observe(first_at - started_at)
            if note is not None and isinstance(event, Admitted | Finished):
                note(event)
            if isinstance(event, Finished):
                metrics.used(event.usage)
                gaps = event.usage.completion_tokens - 1
                if first_at is not None and gaps > 0:
                    elapsed_s = clock.monotonic() - first_at
                    metrics.time_per_output_token.observe(elapsed_s / gaps)
            yield event
