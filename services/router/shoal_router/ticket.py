"""Owns: one generation's place at the router, from the opening of its plan stream to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shoal_common.errors import ShoalError
from shoal_router.pipeline import Pipeline
from shoal_router.policy import Choice
from shoal_router.privacy import Demand
from shoal_router.request import Request
from shoal_router.tiers import Standing


@dataclass(eq=False, slots=True)
class Ticket:
    """Waiting (position > 0), running (pipeline set) or failed (error)."""

    request: Request
    arrival: int
    opened_at_s: float
    served_at_s: float
    """When there last was a pipeline for it; from then on it waits for missing layers."""
    standing: Standing = field(default_factory=Standing)
    """Its tenant's, as it was when it came."""
    attempt: int = 0
    excluded: set[str] = field(default_factory=set)
    lost_nodes: list[str] = field(default_factory=list)
    choice: Choice | None = None
    """What was last found best for it, and at what cost."""
    pipeline: Pipeline | None = None
    granted_at_s: float = 0.0
    error: ShoalError | None = None
    position: int = 0
    expected_wait_s: float | None = None
    """From when `position` was told; None while it cannot be told."""
    loading_percent: int | None = None
    """Set while the model is being loaded for those who wait."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    demand: Demand = field(init=False)
    """How far its prompt may travel."""

    def __post_init__(self) -> None:
        self.demand = self.request.demand

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def model(self) -> str:
        return self.request.model

    @property
    def tenant(self) -> str:
        return self.request.tenant

    @property
    def deadline_at_s(self) -> float | None:
        """When its time is up; None for no limit."""
        left_s = self.request.remaining_s
        return None if left_s is None else self.opened_at_s + left_s

    def may_use(self, pipeline: Pipeline) -> bool:
        return self.excluded.isdisjoint(pipeline.incarnations) and self.demand.allows(pipeline)


Choose = Callable[[Ticket, Sequence[Pipeline]], Pipeline | None]
"""Which of the pipelines that have room, none of them lost to the ticket before, takes it; None:
it waits."""
