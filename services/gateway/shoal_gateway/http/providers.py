"""Providers over HTTP: their keys, models and health.

All behind the key; probes cost money and keys are secrets, so everything below /api is for admins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.http.body import read_object
from shoal_gateway.providers.assembly import Providers
from shoal_gateway.providers.claude_cli import SWITCH, ClaudeCli
from shoal_gateway.providers.health import PROBED_MODELS_MAX
from shoal_gateway.providers.table import BY_NAME, PROVIDERS

# Whether callers with an admin's key read what a provider itself says when it refuses.
SHOWS_ADMINS = web.AppKey("shows_admins", bool)
KEY_CHARS_MAX = 1024
_CLAUDE_FIELD = "claude_subscription_enabled"


@dataclass(frozen=True)
class ProviderRoutes:
    """The handlers with what they need."""

    providers: Providers
    claude: ClaudeCli

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/providers", self.list_public)
        app.router.add_get("/api/admin/providers", self.list)
        app.router.add_put("/api/admin/providers", self.set_keys)
        app.router.add_get("/api/admin/provider-models", self.models)
        app.router.add_get("/api/admin/provider-health", self.health)
        app.router.add_post("/api/admin/provider-model-status", self.model_status)
        app.router.add_get("/api/admin/claude-subscription/status", self.claude_status)

    async def list_public(self, request: web.Request) -> web.Response:
        """An array, as its readers expect it: every provider with a key and its models."""
        by_provider: dict[str, list[str]] = {
            endpoint.name: [] for endpoint in await self.providers.routing.all_configured()
        }
        for model in await self.providers.models.listed():
            by_provider.setdefault(model.provider, []).append(model.model_id)
        return web.json_response(
            [{"name": name, "models": models} for name, models in by_provider.items()]
        )

    async def list(self, request: web.Request) -> web.Response:
        await self.providers.keys.refresh()
        return web.json_response(await self._shown())

    async def set_keys(self, request: web.Request) -> web.Response:
        """`{"openai": "sk-..."}`; null or "" takes a stored key away."""
        body = await read_object(request)
        switches = {}
        if _CLAUDE_FIELD in body:
            is_on = limits.as_boolean(body.pop(_CLAUDE_FIELD), _CLAUDE_FIELD)
            if is_on and not self.claude.is_allowed:
                raise InvalidRequest(
                    f"'{_CLAUDE_FIELD}' needs SHOAL_GATEWAY_CLAUDE_SUBSCRIPTION_ENABLED=true where "
                    "the gateway runs: it starts programs there",
                    param=_CLAUDE_FIELD,
                )
            switches[SWITCH] = is_on
        keys = dict(_key(name, value) for name, value in body.items())
        await self.providers.keys.store(keys, switches)
        return web.json_response(await self._shown())

    async def models(self, request: web.Request) -> web.Response:
        models = [
            {"id": model.model_id, "name": model.label, "provider": model.provider}
            for model in await self.providers.models.listed()
        ]
        return web.json_response({"models": models})

    async def health(self, request: web.Request) -> web.Response:
        probes = [
            {
                "provider": probe.name,
                "status": probe.status,
                "latency_ms": probe.latency_ms,
                "detail": probe.detail,
            }
            for probe in await self.providers.health.providers()
        ]
        return web.json_response({"providers": probes})

    async def model_status(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        names = [
            limits.check_length(
                limits.as_text(name, "models"), "models", 1, limits.MODEL_NAME_CHARS_MAX
            )
            for name in limits.as_list(body.get("models"), "models", PROBED_MODELS_MAX)
        ]
        probes = [
            {"model": probe.name, "status": probe.status, "latency_ms": probe.latency_ms}
            for probe in await self.providers.health.models(names)
        ]
        return web.json_response({"models": probes})

    async def claude_status(self, request: web.Request) -> web.Response:
        return web.json_response(await self.claude.status())

    async def _shown(self) -> dict[str, Any]:
        shown = []
        for provider in PROVIDERS:
            key = self.providers.keys.key_of(provider)
            shown.append(
                {
                    "name": provider.name,
                    "label": provider.label,
                    "configured": key is not None,
                    "source": key.source if key is not None else None,
                }
            )
        return {"providers": shown, _CLAUDE_FIELD: await self.claude.is_on()}


def _key(name: str, value: Any) -> tuple[str, str | None]:
    """The provider's name, with or without `_api_key` behind it, and its key."""
    provider = name.removesuffix("_api_key")
    if provider not in BY_NAME:
        raise InvalidRequest(
            f"unknown provider '{provider[:80]}'; known: {', '.join(BY_NAME)}", param=name[:80]
        )
    if value is None:
        return provider, None
    key = limits.as_text(value, name).strip()
    limits.check_length(key, name, 0, KEY_CHARS_MAX)
    # It becomes a header.
    if not (key.isascii() and key.isprintable()):
        raise InvalidRequest(f"'{name}' holds characters that no key has", param=name)
    return provider, key
