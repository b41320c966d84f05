"""From a model's name to the endpoint that answers for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shoal_gateway.providers.keys import ProviderKeys
from shoal_gateway.providers.table import (
    PROVIDERS,
    Endpoint,
    Provider,
    WireKind,
    open_provider,
    provider_of,
    upstream_name,
)

FALLBACK = "cloud_fallback"


@dataclass(frozen=True)
class NamedModel:
    """One that the operator put on the list; `key_variable` may be ""."""

    base_url: str
    key_variable: str = ""
    ctx_size: int = 0
    kind: WireKind = "openai"


@dataclass(frozen=True)
class RoutingRules:
    """What the operator decided. `base_urls` replace published ones, by provider."""

    base_urls: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, NamedModel] = field(default_factory=dict)
    fallback_url: str = ""
    fallback_key: str = field(default="", repr=False)


class Routing:
    """Named models first, then the twelve by their patterns, then the fallback."""

    def __init__(self, rules: RoutingRules, keys: ProviderKeys) -> None:
        self._rules = rules
        self._keys = keys

    async def endpoint(self, model: str) -> Endpoint | None:
        """Who answers for the model; None if nobody, or if its provider has no key."""
        await self._keys.refresh()
        if not model:
            return None
        if model in self._rules.named:
            return self._named(model)
        provider = provider_of(model)
        if provider is not None and (found := self.configured(provider)) is not None:
            return Endpoint(provider, found.base_url, upstream_name(provider, model), found.key)
        if self._rules.fallback_url:
            return Endpoint(
                open_provider(FALLBACK), self._rules.fallback_url, model, self._rules.fallback_key
            )
        return None

    async def all_configured(self) -> tuple[Endpoint, ...]:
        """One endpoint, asking for the probe model, for each provider that has a key."""
        await self._keys.refresh()
        found = (self.configured(provider) for provider in PROVIDERS)
        return tuple(endpoint for endpoint in found if endpoint is not None)

    def configured(self, provider: Provider) -> Endpoint | None:
        """The provider with its key, as of the last refresh; None without one."""
        key = self._keys.key_of(provider)
        if key is None:
            return None
        base_url = self._rules.base_urls.get(provider.name, provider.base_url)
        return Endpoint(provider, base_url, provider.probe_model, key.value)

    def named(self) -> tuple[Endpoint, ...]:
        """The operator's own models."""
        return tuple(self._named(model) for model in self._rules.named)

    def fallback(self) -> Endpoint | None:
        """Where names go that nobody else knows."""
        url = self._rules.fallback_url
        if not url:
            return None
        return Endpoint(open_provider(FALLBACK), url, "", self._rules.fallback_key)

    def _named(self, model: str) -> Endpoint:
        entry = self._rules.named[model]
        return Endpoint(
            open_provider(f"cloud:{model}", entry.kind),
            entry.base_url,
            model,
            self._keys.variable(entry.key_variable),
            entry.ctx_size,
        )
