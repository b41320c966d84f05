"""Which models a tool may choose from, and what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
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


class Offered(Protocol):
    """A provider's model, by the name to ask for here. `context_length` 0: unknown."""

    @property
    def model_id(self) -> str: ...

    @property
    def provider(self) -> str: ...

    @property
    def context_length(self) -> int: ...


class Offers(Protocol):
    """What providers with a key offer now."""

    async def listed(self) -> Sequence[Offered]: ...


class Cascade(Protocol):
    """A name behind which two models answer."""

    @property
    def model(self) -> str: ...

    async def is_usable(self) -> bool: ...


@dataclass(frozen=True)
class JoinedCatalogue:
    """The fleet's models, its cascade if there is one, then the providers'; of one name the first
    answers."""

    fleet: ModelCatalogue
    offers: Offers
    cascade: Cascade | None = None

    async def models(self) -> tuple[ModelFacts, ...]:
        own = await self.fleet.models()
        if self.cascade is not None and await self.cascade.is_usable():
            own = (*own, ModelFacts(name=self.cascade.model, is_ready=True))
        names = {model.name for model in own}
        others = (
            ModelFacts(
                name=model.model_id,
                is_ready=True,
                context_length=model.context_length,
                provider=model.provider,
            )
            for model in await self.offers.listed()
            if model.model_id not in names
        )
        return (*own, *others)
