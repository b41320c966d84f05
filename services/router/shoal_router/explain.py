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
from shoal_router.planner import Planner
from shoal_router.request import Request
from shoal_router.ticket import Ticket
from shoal_router.tiers import Tier


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a policy thinks of a pipeline for one request.

    cost_us: lower wins. held_token_count: of the prompt, on every stage. refusal: why the request
    must not go this way; empty when it may.
    """

    cost_us: float
    held_token_count: int = 0
    refusal: str = ""


Weigh = Callable[[Ticket, Pipeline], Weighed]


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
    """The chosen way first, then by cost. problem: why there is no plan; empty where there is."""

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
        problem = ""
        if not pipelines:
            problem = str(self._planner.why_not(ticket))
        ways = self._ways(ticket, pipelines)
        if pipelines and all(way.weighed.refusal for way in ways):
            problem = f"none of the {len(ways)} pipelines may be used: {ways[0].weighed.refusal}"
        return Explanation(
            ways=ways,
            placements=await self._placements(request.model),
            waiting_count=len(self._admission.waiting(request.model)),
            tier=self._admission.standing(request.tenant).tier,
            problem=problem,
        )

    def _ways(self, ticket: Ticket, pipelines: Sequence[Pipeline]) -> tuple[Way, ...]:
        weighed = {p: self._weigh(ticket, p) for p in pipelines}
        free = [p for p in pipelines if self._admission.has_room(p) and not weighed[p].refusal]
        chosen = self._admission.choose(ticket, free) if free else None
        ways = [
            Way(
                pipeline=pipeline,
                weighed=weighed[pipeline],
                in_flight_count=self._admission.load(pipeline),
                is_chosen=pipeline is chosen,
                reason=self._reason(pipeline, weighed, chosen),
            )
            for pipeline in pipelines
        ]
        return tuple(sorted(ways, key=lambda w: (not w.is_chosen, w.weighed.cost_us)))

    def _reason(
        self, pipeline: Pipeline, weighed: dict[Pipeline, Weighed], chosen: Pipeline | None
    ) -> str:
        own = weighed[pipeline]
        if own.refusal:
            return own.refusal
        if not self._admission.has_room(pipeline):
            return f"full: its busiest stage carries {self._admission.load(pipeline)} requests"
        if pipeline is chosen:
            cheaper = [p for p, w in weighed.items() if w.cost_us < own.cost_us and not w.refusal]
            if not cheaper:
                return "costs least"
            if any(self._admission.has_room(p) for p in cheaper):
                return "takes its share of the requests"
            return "costs least of those that have room"
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

    def _by_load(self, ticket: Ticket, pipeline: Pipeline) -> Weighed:
        return Weighed(float((self._admission.load(pipeline) + 1) * max(pipeline.time_us, 1)))
