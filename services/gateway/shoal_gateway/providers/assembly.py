"""The room as a whole: what its parts need, opened and closed together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shoal_common.clock import Clock
from shoal_gateway.database import Database
from shoal_gateway.metrics import Metrics
from shoal_gateway.providers.backend import ProviderBackend
from shoal_gateway.providers.client import ClientLimits, ProviderClient
from shoal_gateway.providers.health import Health
from shoal_gateway.providers.keys import FoundKey, ProviderKeys
from shoal_gateway.providers.model_list import ProviderModels
from shoal_gateway.providers.routing import Routing, RoutingRules


@dataclass(frozen=True)
class ProviderConfig:
    """What the operator decided. `found_keys` are those of the environment, by variable."""

    secret_path: Path
    found_keys: Mapping[str, FoundKey]
    rules: RoutingRules
    limits: ClientLimits
    max_tokens_default: int


@dataclass(frozen=True)
class Providers:
    """What others may ask of the providers."""

    keys: ProviderKeys
    routing: Routing
    client: ProviderClient
    backend: ProviderBackend
    models: ProviderModels
    health: Health


@asynccontextmanager
async def open_providers(
    config: ProviderConfig, database: Database, clock: Clock, metrics: Metrics
) -> AsyncIterator[Providers]:
    """Nothing is asked of any provider yet."""
    keys = ProviderKeys(database, config.secret_path, config.found_keys, clock)
    routing = Routing(config.rules, keys)
    client = ProviderClient(config.limits, clock, metrics)
    backend = ProviderBackend(routing, client, config.max_tokens_default)
    models = ProviderModels(routing, client, clock)
    try:
        yield Providers(keys, routing, client, backend, models, Health(routing, client, clock))
    finally:
        await models.close()
        await client.close()
