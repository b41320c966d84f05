"""Whether providers and models answer: one token is asked of each. It costs money."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_gateway.providers.backend import CHAT_PATHS
from shoal_gateway.providers.client import ProviderClient, encoded
from shoal_gateway.providers.errors import (
    ProviderFault,
    ProviderLacksModel,
    ProviderOverloaded,
    ProviderRateLimited,
    ProviderRefusedKey,
    ProviderRefusedRequest,
    ProviderSilent,
    ProviderUnreachable,
)
from shoal_gateway.providers.routing import Routing
from shoal_gateway.providers.table import Endpoint

PROBE_TIMEOUT_S = 15.0
PROBED_MODELS_MAX = 20


@dataclass(frozen=True)
class Probe:
    """What one request for one token showed. `name` is the provider's or the model's."""

    name: str
    status: str
    latency_ms: int
    detail: str = ""


class Health:
    """Probes go around breakers and retries: they are to see what is."""

    def __init__(self, routing: Routing, client: ProviderClient, clock: Clock) -> None:
        self._routing = routing
        self._client = client
        self._clock = clock

    async def providers(self) -> list[Probe]:
        """All that have a key, at once."""
        endpoints = await self._routing.all_configured()
        probes = await asyncio.gather(*(self._probe(endpoint) for endpoint in endpoints))
        return [
            Probe(endpoint.name, _provider_status(error), latency_ms, _detail(error))
            for endpoint, (error, latency_ms) in zip(endpoints, probes, strict=True)
        ]

    async def models(self, names: Sequence[str]) -> list[Probe]:
        """Those of them that an OpenAI-type provider serves, at once; Anthropic's are left out."""
        found = [(name, await self._routing.endpoint(name)) for name in dict.fromkeys(names)]
        asked = [(n, e) for n, e in found if e is None or e.provider.kind == "openai"]
        return list(await asyncio.gather(*(self._model(name, e) for name, e in asked)))

    async def _model(self, name: str, endpoint: Endpoint | None) -> Probe:
        if endpoint is None:
            return Probe(name, "not_found", 0)
        error, latency_ms = await self._probe(endpoint)
        return Probe(name, _model_status(error), latency_ms)

    async def _probe(self, endpoint: Endpoint) -> tuple[ShoalError | TimeoutError | None, int]:
        """The error that came, if one did, and the milliseconds it took."""
        body = {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": "hi"}],
            endpoint.provider.max_tokens_field: 1,
        }
        started_at = self._clock.monotonic()
        error: ShoalError | TimeoutError | None = None
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                path = CHAT_PATHS[endpoint.provider.kind]
                async with self._client.open(endpoint, path, encoded(body)) as upstream:
                    await upstream.read()
        except (ShoalError, TimeoutError) as err:
            error = err
        return error, round((self._clock.monotonic() - started_at) * 1000)


def _provider_status(error: ShoalError | TimeoutError | None) -> str:
    match error:
        case None:
            return "up"
        case ProviderRateLimited():
            return "rate_limited"
        case ProviderOverloaded():
            return "overloaded"
        case TimeoutError() | ProviderSilent():
            return "timeout"
        case ProviderFault() | ProviderRefusedKey() | ProviderRefusedRequest():
            return f"error_{error.status}"
    return "unreachable"


def _model_status(error: ShoalError | TimeoutError | None) -> str:
    match error:
        case None:
            return "up"
        case ProviderRateLimited():
            return "rate_limited"
        case ProviderLacksModel():
            return "not_found"
        case ProviderOverloaded() | ProviderUnreachable():
            return "unavailable"
        case TimeoutError() | ProviderSilent():
            return "timeout"
    return "error"


def _detail(error: ShoalError | TimeoutError | None) -> str:
    return str(error or "")
