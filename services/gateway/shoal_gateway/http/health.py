"""Health and metrics over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shoal_common.driving import PeerUnreachable
from shoal_common.errors import ShoalError
from shoal_gateway.errors import MetricsOff
from shoal_gateway.metrics import Metrics
from shoal_gateway.models import ModelDirectory

_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


@dataclass(frozen=True)
class HealthRoutes:
    """The handlers with what they need."""

    directory: ModelDirectory
    metrics: Metrics
    # Whose metrics are shown instead of ours, where this is one of several processes.
    metrics_address: str = ""
    metrics_path: str = "/metrics"
    shows_metrics: bool = True

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/health", self.health)
        app.router.add_get("/health/ready", self.ready)
        app.router.add_get(self.metrics_path, self.show_metrics)

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """Ready once the router answers and a model is held, or loaded on demand."""
        try:
            states = await self.directory.states()
        except ShoalError:
            states = ()
            is_router_up = False
        else:
            is_router_up = True
        has_model = any(state.is_ready or state.is_loadable for state in states)
        subsystems = {"api_server": True, "inference_router": is_router_up, "models": has_model}
        is_ready = all(subsystems.values())
        body = {"ready": is_ready, "subsystems": subsystems}
        return web.json_response(body, status=200 if is_ready else 503)

    async def show_metrics(self, request: web.Request) -> web.Response:
        if not self.shows_metrics:
            raise MetricsOff
        body = await self._of_all() if self.metrics_address else self._own()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _own(self) -> bytes:
        return generate_latest(self.metrics.registry)

    async def _of_all(self) -> bytes:
        url = f"http://{self.metrics_address}/metrics"
        try:
            async with aiohttp.ClientSession(timeout=_TIMEOUT) as session, session.get(url) as got:
                return await got.read()
        except (aiohttp.ClientError, TimeoutError) as err:
            raise PeerUnreachable("the parent process") from err
