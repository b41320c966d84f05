"""What this node is doing, over HTTP: for people and dashboards, behind the key."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata

from aiohttp import web

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_gateway.http.models import state_name
from shoal_gateway.metrics import Metrics
from shoal_gateway.models import ModelDirectory


@dataclass
class StatusRoutes:
    """The handler with what it needs. Made when the service starts."""

    directory: ModelDirectory
    metrics: Metrics
    clock: Clock
    version: str = field(default_factory=lambda: metadata.version("shoal"))
    started_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_at = self.clock.monotonic()

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/status", self.status)

    async def status(self, request: web.Request) -> web.Response:
        """Answers 200 even when the fleet does not: `status` says so."""
        problem: str | None = None
        try:
            states = await self.directory.states()
        except ShoalError as err:
            states, problem = (), str(err)
        is_ready = any(state.is_ready or state.is_loadable for state in states)
        # This request is in flight, too, and is not meant.
        body = {
            "status": "ready" if is_ready else "degraded",
            "ready": is_ready,
            "problem": problem,
            "version": self.version,
            "uptime_seconds": int(self.clock.monotonic() - self.started_at),
            "requests_in_flight": self.metrics.running_count - 1,
            "models": [
                {
                    "id": state.model,
                    "state": state_name(state),
                    "is_ready": state.is_ready,
                    "ctx_size": state.context_length,
                    "layer_count": state.layer_count,
                    "worker_count": state.worker_count,
                    "pipeline_count": state.pipeline_count,
                }
                for state in states
            ],
        }
        return web.json_response(body)
