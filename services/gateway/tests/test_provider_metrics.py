"""What is counted and traced of the requests to one provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry

from shoal_common import trace
from shoal_common.errors import ShoalError
from shoal_common.testing.clock import FakeClock
from shoal_gateway.metrics import Metrics, ProviderMetrics
from shoal_gateway.providers.errors import (
    ProviderCrowded,
    ProviderFault,
    ProviderRateLimited,
    ProviderRefusedKey,
    ProviderRefusedRequest,
    ProviderUnreachable,
)
from shoal_gateway.providers.guard import COOLDOWN_S, FAILURES_MAX, Gate
from shoal_gateway.providers.testing import fake_provider, openai_stream, whole

KEY = "k" * 64


class Counted:
    """A gate and what its metrics say."""

    def __init__(self, in_flight_max: int = 10) -> None:
        self.clock = FakeClock()
        self.registry = CollectorRegistry()
        metrics = ProviderMetrics(Metrics(self.registry), "p")
        self.gate = Gate("p", in_flight_max, self.clock, metrics)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(
            f"shoal_gateway_provider_{name}", {"provider": "p"} | labels
        )

    async def ask(self, error: BaseException | None = None) -> None:
        async with self.gate.request("m"):
            if error is not None:
                raise error

    async def read_and_leave(self) -> None:
        async with self.gate.request("m") as request:
            request.answered()
            raise GeneratorExit


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    trace.setup("gateway", exporter)
    yield exporter
    exporter.shutdown()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (ProviderRefusedRequest("p", 400), "refused"),
        (ProviderRefusedKey("p", 401), "key_refused"),
        (ProviderRateLimited("p", None), "overloaded"),
        (ProviderFault("p", 500), "failed"),
        (GeneratorExit(), "cancelled"),
    ],
)
async def test_every_end_has_its_word(error: BaseException | None, outcome: str) -> None:
    counted = Counted()
    with suppress(ShoalError, GeneratorExit):
        await counted.ask(error)
    assert counted.value("requests_total", outcome=outcome) == 1
    assert counted.value("duration_seconds_count") == 1
    assert counted.value("in_flight") == 0


async def test_time_and_retries_are_measured() -> None:
    counted = Counted()
    async with counted.gate.request("m") as request:
        await request.pause_before_retry(ProviderRateLimited("p", 0.0))
        await counted.clock.advance(2.0)
        request.began()
        await counted.clock.advance(3.0)
        assert counted.value("in_flight") == 1
    assert counted.value("retries_total") == 1
    assert counted.value("time_to_first_byte_seconds_sum") == 2.0
    assert counted.value("duration_seconds_sum") == 5.0


async def test_what_is_not_sent_is_counted_apart() -> None:
    counted = Counted(in_flight_max=1)
    async with counted.gate.request("m"):
        with pytest.raises(ProviderCrowded):
            await counted.ask()
    assert counted.value("requests_total", outcome="crowded") == 1
    assert counted.value("breakers_open") == 0
    for _ in range(FAILURES_MAX):
        with pytest.raises(ProviderFault):
            await counted.ask(ProviderFault("p", 500))
    assert counted.value("breakers_open") == 1
    with pytest.raises(ProviderUnreachable):
        await counted.ask()
    assert counted.value("requests_total", outcome="left_alone") == 1
    await counted.clock.advance(COOLDOWN_S)
    await counted.ask()
    assert counted.value("breakers_open") == 0


async def test_whoever_has_all_may_leave_before_the_end() -> None:
    counted = Counted()
    for _ in range(FAILURES_MAX - 1):
        with pytest.raises(ProviderFault):
            await counted.ask(ProviderFault("p", 500))
    with pytest.raises(GeneratorExit):
        await counted.read_and_leave()
    assert counted.value("requests_total", outcome="ok") == 1
    # The provider answered, so what failed before is no row of failures any more.
    with pytest.raises(ProviderFault):
        await counted.ask(ProviderFault("p", 500))
    assert counted.value("breakers_open") == 0


async def test_a_request_is_a_span(spans: InMemorySpanExporter) -> None:
    counted = Counted()
    with pytest.raises(ProviderFault), trace.span("request"):
        await counted.ask(ProviderFault("p", 500))
    assert trace.setup("gateway").force_flush()
    ask, request = spans.get_finished_spans()
    assert ask.name == "provider"
    assert ask.parent is not None
    assert request.context is not None
    assert ask.parent.span_id == request.context.span_id
    assert dict(ask.attributes or {}) == {
        "provider": "p",
        "model": "m",
        "outcome": "failed",
        "retry_count": 0,
    }
    assert ask.status.status_code is StatusCode.ERROR


async def test_answers_on_every_way_are_counted(
    start_fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    async with (
        fake_provider() as provider,
        start_fleet(provider_base_urls={"openai": provider.url}) as fleet,
        aiohttp.ClientSession(fleet.url, headers={"x-api-key": KEY}) as http,
    ):
        body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
        for path, fields, reply in (
            ("/v1/chat/completions", {"stream": True}, openai_stream("one")),
            ("/v1/messages", {"max_tokens": 9}, openai_stream("one")),
            ("/v1/messages", {"max_tokens": 9, "stream": True}, openai_stream("one")),
            ("/v1/embeddings", {"input": "hi"}, whole({"object": "list", "data": []})),
        ):
            provider.says(reply)
            async with http.post(path, json=body | fields) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
        async with http.get("/metrics") as answer:
            text = await answer.text()
    name = "shoal_gateway_provider"
    assert f'{name}_requests_total{{outcome="ok",provider="openai"}} 4.0' in text
    assert f'{name}_time_to_first_byte_seconds_count{{provider="openai"}} 4.0' in text
    assert f'{name}_breakers_open{{provider="openai"}} 0.0' in text
