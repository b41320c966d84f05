"""What the gateway is doing, over HTTP: /relay/*. Bodies of requests are for admins only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from aiohttp import web

from shoal_common.clock import Clock
from shoal_common.errors import InvalidRequest, ShoalError
from shoal_gateway.access.callers import SCOPES
from shoal_gateway.access.gate import Gate
from shoal_gateway.errors import UnknownRoute
from shoal_gateway.history import Entry, History
from shoal_gateway.http.caller import CALLER
from shoal_gateway.metrics import Metrics
from shoal_gateway.models import ModelDirectory

_LISTED_MAX = 1000
_BODIES = ("request_body", "reply_text")


@dataclass(frozen=True)
class RelayRoutes:
    """The handlers with what they need."""

    directory: ModelDirectory
    history: History
    gate: Gate
    metrics: Metrics
    clock: Clock
    started_at: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "started_at", self.clock.monotonic())

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/relay/status", self.status)
        app.router.add_get("/relay/metrics", self.show_metrics)
        app.router.add_get("/relay/stats", self.stats)
        app.router.add_get("/relay/requests", self.list_requests)
        app.router.add_get("/relay/requests/{request_id}", self.show_request)
        app.router.add_get("/relay/capabilities", self.capabilities)

    async def status(self, request: web.Request) -> web.Response:
        try:
            states = await self.directory.states()
        except ShoalError:
            states, is_router_up = (), False
        else:
            is_router_up = True
        body = {
            "status": "ok" if is_router_up else "degraded",
            "version": version("shoal"),
            "uptime_s": round(self.clock.monotonic() - self.started_at, 3),
            "router": "up" if is_router_up else "down",
            "in_flight": self.gate.in_flight,
            "models": [{"id": s.model, "is_ready": s.is_ready} for s in states],
        }
        return web.json_response(body)

    async def show_metrics(self, request: web.Request) -> web.Response:
        """The figures of /metrics as JSON, without the buckets of histograms."""
        figures = [
            {"name": sample.name, "labels": dict(sample.labels), "value": sample.value}
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if not sample.name.endswith(("_bucket", "_created"))
        ]
        return web.json_response({"object": "list", "data": figures})

    async def stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.history.sums())

    async def list_requests(self, request: web.Request) -> web.Response:
        given = request.query.get("limit", "100")
        if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= _LISTED_MAX):
            raise InvalidRequest(f"'limit' must be 1 to {_LISTED_MAX}", param="limit")
        entries = self.history.newest()[: int(given)]
        return web.json_response({"object": "list", "data": [_short(entry) for entry in entries]})

    async def show_request(self, request: web.Request) -> web.Response:
        entry = self.history.show(request.match_info["request_id"])
        if entry is None:
            raise UnknownRoute(request.method, request.path)
        body = _short(entry)
        if self.history.keeps_bodies and request[CALLER].is_admin:
            body |= {name: getattr(entry, name) for name in _BODIES}
        return web.json_response(body)

    async def capabilities(self, request: web.Request) -> web.Response:
        states = await self.directory.states()
        routes = {
            resource.canonical
            for resource in request.app.router.resources()
            if resource.canonical.startswith(("/v1", "/mcp", "/relay", "/api"))
        }
        body = {
            "routes": sorted(routes),
            "scopes": list(SCOPES),
            "keeps_bodies": self.history.keeps_bodies,
            "models": [{"id": s.model, "ctx_size": s.context_length} for s in states],
        }
        return web.json_response(body)


def _short(entry: Entry) -> dict[str, Any]:
    """An entry without what was said."""
    body = {name: value for name, value in asdict(entry).items() if name not in _BODIES}
    started_at = datetime.fromtimestamp(entry.started_at, UTC)
    return body | {"started_at": started_at.isoformat(timespec="milliseconds")}
