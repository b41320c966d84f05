"""Which models a tool may choose from, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shoal_gateway.models import ModelDirectory


@dataclass(frozen=True)
class ModelFacts:
    """`provider` is "" for this fleet's own. Counts are 0 where nobody tells them.

    is_loadable: not held now, comes back when it is asked for.
    """

    name: str
    is_ready: bool
    is_loadable: bool = False
    context_length: int = 0
    layer_count: int = 0
    worker_count: int = 0
    provider: str = ""


class ModelCatalogue(Protocol):
    """The fleet's models, the providers', or both."""

    async def models(self) -> tuple[ModelFacts, ...]:
        """In the order in which they are listed. Raises ShoalError when nobody can tell."""
        ...


@dataclass(frozen=True)
class FleetCatalogue:
    """The models that the router knows."""

    directory: ModelDirectory

    async def models(self) -> tuple[ModelFacts, ...]:
        return tuple(
            ModelFacts(
                name=state.model,
                is_ready=state.is_ready,
                is_loadable=state.is_loadable,
                context_length=state.context_length,
                layer_count=state.layer_count,
                worker_count=state.worker_count,
            )
            for state in await self.directory.states()
        )
