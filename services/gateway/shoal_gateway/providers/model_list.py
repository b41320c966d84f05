"""Which models the providers have, asked at most once a minute.

A list that has aged is given out as it is and asked for again meanwhile; one provider's failure
leaves its last list standing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_gateway.providers.client import ProviderClient
from shoal_gateway.providers.read_openai import parsed
from shoal_gateway.providers.routing import FALLBACK, Routing
from shoal_gateway.providers.table import Endpoint, public_name
from shoal_gateway.providers.values import count, items, obj, text

log = logging.getLogger(__name__)

FRESH_S = 60.0
LIST_TIMEOUT_S = 5.0
MODELS_MAX = 5000
_NAME_CHARS_MAX = 256


@dataclass(frozen=True)
class ProviderModel:
    """`model_id` is the name to ask for here. `context_length` 0: unknown."""

    model_id: str
    label: str
    provider: str
    context_length: int = 0


class ProviderModels:
    """The lists of all configured providers, and the operator's own."""

    def __init__(self, routing: Routing, client: ProviderClient, clock: Clock) -> None:
        self._routing = routing
        self._client = client
        self._clock = clock
        self._lists: dict[str, tuple[ProviderModel, ...]] = {}
        self._asked_for: frozenset[str] = frozenset()
        self._asked_at: float | None = None
        self._asking: asyncio.Task[None] | None = None

    async def listed(self) -> tuple[ProviderModel, ...]:
        """Waits (at most `LIST_TIMEOUT_S`) only the first time, or when keys have changed."""
        endpoints = await self._endpoints()
        names = frozenset(endpoint.name for endpoint in endpoints)
        is_new = self._asked_at is None or not names <= self._asked_for
        if is_new or self._clock.monotonic() - (self._asked_at or 0.0) > FRESH_S:
            asking = self._ask(endpoints, names)
            if is_new:
                # Whoever leaves must not end it for the others.
                await asyncio.shield(asking)
        found = [model for name in sorted(names) for model in self._lists.get(name, ())]
        return (*self._named(), *found)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _endpoints(self) -> tuple[Endpoint, ...]:
        endpoints = await self._routing.all_configured()
        fallback = self._routing.fallback()
        return endpoints if fallback is None else (*endpoints, fallback)

    def _named(self) -> Iterator[ProviderModel]:
        for endpoint in self._routing.named():
            yield ProviderModel(endpoint.model, endpoint.model, endpoint.name, endpoint.ctx_size)

    def _ask(self, endpoints: tuple[Endpoint, ...], names: frozenset[str]) -> asyncio.Task[None]:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all(endpoints, names))
        return self._asking

    async def _ask_all(self, endpoints: tuple[Endpoint, ...], names: frozenset[str]) -> None:
        answers = await asyncio.gather(*(self._ask_one(endpoint) for endpoint in endpoints))
        for endpoint, models in zip(endpoints, answers, strict=True):
            if models is not None:
                self._lists[endpoint.name] = models
        self._asked_at = self._clock.monotonic()
        self._asked_for = names

    async def _ask_one(self, endpoint: Endpoint) -> tuple[ProviderModel, ...] | None:
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                async with self._client.open(endpoint, "models", None) as upstream:
                    raw = await upstream.read()
            # Together answers with a bare list.
            body = parsed(endpoint.name, raw if raw.lstrip()[:1] == b"{" else b'{"data":%b}' % raw)
        except (ShoalError, TimeoutError) as err:
            reason = getattr(err, "reason", "TIMEOUT")
            log.warning("models unlisted", extra={"provider": endpoint.name, "reason": reason})
            return None
        return tuple(_models(endpoint, items(body.get("data"))[:MODELS_MAX]))


def _models(endpoint: Endpoint, entries: list[Any]) -> Iterator[ProviderModel]:
    for entry in map(obj, entries):
        upstream = text(entry.get("id"))
        if not 0 < len(upstream) <= _NAME_CHARS_MAX:
            continue
        name = upstream
        if endpoint.name != FALLBACK:
            name = public_name(endpoint.provider, upstream) or ""
        if not name:
            continue
        label = text(entry.get("display_name")) or text(entry.get("name")) or upstream
        length = next((n for k in _LENGTHS if (n := count(entry.get(k)))), 0)
        yield ProviderModel(name, label, endpoint.name, length)


_LENGTHS = (
    "context_length",
    "context_window",
    "max_context_length",
    "ctx_size",
    "max_model_len",
    "max_input_tokens",
)
