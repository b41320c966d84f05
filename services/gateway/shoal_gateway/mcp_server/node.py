"""What this server says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_gateway.mcp_server.catalogue import ModelCatalogue, ModelFacts

NAME = "shoal"


def installed_version() -> str:
    return version("shoal")


@dataclass(frozen=True)
class Node:
    """`started_at` is of `clock.monotonic`."""

    catalogue: ModelCatalogue
    clock: Clock
    started_at: float

    async def status(self) -> dict[str, Any]:
        """As `schemas.STATUS_SCHEMA` has it. Never fails: a router that is away is a status."""
        models: tuple[ModelFacts, ...] = ()
        state = "router_unreachable"
        try:
            models = await self.catalogue.models()
        except ShoalError:
            pass
        else:
            can_answer = any(model.is_ready or model.is_loadable for model in models)
            state = "ready" if can_answer else "no_model"
        ready = [model.name for model in models if model.is_ready]
        return {
            "name": NAME,
            "version": installed_version(),
            "uptime_s": int(self.clock.monotonic() - self.started_at),
            "status": state,
            "model_loaded": ready[0] if ready else None,
            "models_ready": ready,
            "models_loadable": [m.name for m in models if m.is_loadable and not m.is_ready],
            "providers": sorted({model.provider for model in models if model.provider}),
            "worker_count": max((model.worker_count for model in models), default=0),
        }
