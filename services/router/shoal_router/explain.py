"""Owns: what a request would get now and why, in words, without taking a slot.

Does not know: how costs are found; it asks whoever chooses. Nothing here changes anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal_router.admission import Admission
from shoal_router.pipeline import Pipeline
from shoal_router.placement import Placements
from shoal_router.planner import Planner, Readiness
from shoal_router.request import Request
from shoal_router.ticket import Ticket
from shoal_router.tiers import Tier

LEAST = "costs least"
"""A policy's own word for its usual reason."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a policy thinks of a pipeline for one request.

    cost_us: lower wins. held_token_count: of the prompt, on every stage. is_crowded: far above its
    share of the load. refusal: why the request must not go this way; empty when it may.
    """

    cost_us: float
    held_token_count: int = 0
    is_crowded: bool = False
    refusal: str = ""


Weigh = Callable[[Ticket, Sequence[Pipeline]], Sequence[Weighed]]
"""In the order of the pipelines."""


@dataclass(frozen=True, slots=True)
class Way:
    """One pipeline, as far as one request is concerned."""

    pipeline: Pipeline
    weighed: Weighed
    in_flight_count: int
    is_chosen: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The chosen way first, then by cost. problem: why a request would be refused; empty where it
    would run, or wait, for a slot or for the model to be loaded."""

    ways: tuple[Way, ...]
    placements: Placements | None
    waiting_count: int
    tier: Tier
    problem: str = ""


class Explainer:
    """Looks at planner and admission as a request would meet them."""

    def __init__(
        self,
        planner: Planner,
        admission: Admission,
        considered: Callable[[str], Callable[[], Placements] | None],
        weigh: Weigh | None = None,
    ) -> None:
        """considered: how a model could be placed now, computed when it is called, in any thread;
        None for a model that nobody knows. weigh: of the policy that chooses; without one by load
        times predicted step time.
        """
        self._planner = planner
        self._admission = admission
        self._considered = considered
        self._placing = asyncio.Lock()
        self._weigh = weigh or self._by_load

    async def explain(self, request: Request) -> Explanation:
        """Raises what opening a plan for a model that does not exist raises."""
        ticket = self._planner.probe(request)
        pipelines = self._planner.pipelines_for(ticket)
        ways = self._ways(ticket, pipelines)
        problem = ""
        if all(way.weighed.refusal for way in ways) and not self._comes(request.model):
            problem = str(self._planner.why_not(ticket))
        return Explanation(
            ways=ways,
            placements=await self._placements(request.model),
            waiting_count=len(self._admission.waiting(request.model)),
            tier=self._admission.standing(request.tenant).tier,
            problem=problem,
        )

    def _comes(self, model: str) -> bool:
        """Whether a request would wait for the model to be loaded."""
        on_its_way = (Readiness.LOADABLE, Readiness.LOADING)
        states = self._planner.model_states()
        return any(state.model == model and state.readiness in on_its_way for state in states)

    def _ways(self, ticket: Ticket, pipelines: Sequence[Pipeline]) -> tuple[Way, ...]:
        weighed = dict(zip(pipelines, self._weigh(ticket, pipelines), strict=True))
        free = [p for p in pipelines if self._admission.has_room(p) and not weighed[p].refusal]
        chosen = self._admission.choose(ticket, free) if free else None
        ways = [
            Way(
                pipeline=pipeline,
                weighed=weighed[pipeline],
                in_flight_count=self._admission.load(pipeline),
                is_chosen=pipeline is chosen,
                reason=self._reason(ticket, pipeline, weighed, chosen),
            )
            for pipeline in pipelines
        ]
        return tuple(sorted(ways, key=lambda w: (not w.is_chosen, w.weighed.cost_us)))

    def _reason(
        self,
        ticket: Ticket,
        pipeline: Pipeline,
        weighed: dict[Pipeline, Weighed],
        chosen: Pipeline | None,
    ) -> str:
        own = weighed[pipeline]
        if own.refusal:
            return own.refusal
        if not self._admission.has_room(pipeline):
            return f"full: its busiest stage carries {self._admission.load(pipeline)} requests"
        if pipeline is chosen:
            is_least = all(own.cost_us <= w.cost_us for w in weighed.values() if not w.refusal)
            reason = ticket.choice.reason if ticket.choice is not None else LEAST
            return (
                reason if is_least or reason != LEAST else "costs least of those that may take it"
            )
        if own.is_crowded:
            return f"carries far more than its share: {self._admission.load(pipeline)} requests"
        if chosen is None:
            return "not chosen: the request would wait"
        return f"costs {own.cost_us / max(weighed[chosen].cost_us, 1.0):.2f} times the chosen one"

    async def _placements(self, model: str) -> Placements | None:
        """In a thread, one at a time: a fleet of a thousand takes seconds."""
        considered = self._considered(model)
        if considered is None:
            return None
        async with self._placing:
            return await asyncio.to_thread(considered)

    def _by_load(self, ticket: Ticket, pipelines: Sequence[Pipeline]) -> list[Weighed]:
        load = self._admission.load
        return [Weighed(float((load(p) + 1) * max(p.time_us, 1))) for p in pipelines]
