"""Owns: which answer a request for a plan gets.

Does not know: the wire. Everything here is synchronous; `refresh` must be called after beats and
every few hundred milliseconds, so that those who wait see a fleet that changes by silence.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypedDict

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_common.clock import Clock
from shoal_common.errors import InvalidRequest, PlanUnavailable, ShoalError, UnknownModel
from shoal_router.admission import Admission
from shoal_router.announcements import Announcements
from shoal_router.errors import (
    LayersMissing,
    LoadFailed,
    ModelLoading,
    NoOtherPipeline,
    PrivacyUnsatisfied,
    RangesDoNotJoin,
    RouterStarting,
)
from shoal_router.fleet_view import FleetView
from shoal_router.formation import Formation
from shoal_router.loading import Loads
from shoal_router.offers import ON_THE_WAY
from shoal_router.pipeline import Engine, Pipeline, missing_ranges
from shoal_router.policy import Policy
from shoal_router.request import Request
from shoal_router.ticket import Ticket

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlannerOptions:
    plan_wait_s: float = 0.0
    starting_s: float = 3.0


class Readiness(Enum):
    """What a request for a model would meet."""

    READY = "ready"
    LOADING = "loading"
    LOADABLE = "loadable"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class ModelState:
    """What the fleet holds of one model; `missing` is empty when every layer is held."""

    model: str
    revision: str
    layer_count: int
    context_length: int
    missing: tuple[range, ...]
    pipeline_count: int
    worker_count: int
    readiness: Readiness = Readiness.INCOMPLETE
    loading_percent: int = 0
    is_loadable: bool = False
    kv_format: str = ""
    block_size_tokens: int = 0
    shares_prefixes: bool = False

    @property
    def is_ready(self) -> bool:
        return self.pipeline_count > 0


@dataclass(frozen=True, slots=True)
class PlanDetails:
    """What a plan says besides its pipeline. standbys: by stage, best first."""

    step_us: int
    held_token_count: int
    standbys: tuple[tuple[Engine, ...], ...]
    privacy: pb.PrivacyProof | None


class Planner:
    """Joins view, pipelines and admission."""

    def __init__(
        self,
        view: FleetView,
        formation: Formation,
        policy: Policy,
        admission: Admission,
        clock: Clock,
        options: PlannerOptions,
        announcements: Announcements,
        loads: Loads,
    ) -> None:
        self._formation = formation
        self._policy = policy
        self._announcements = announcements
        self._loads = loads
        self._view = view
        self._admission = admission
        self._clock = clock
        self._options = options
        self._started_at_s = clock.monotonic()
        self._arrivals = 0
        admission.choose = self._choose

    def open(self, request: Request) -> Ticket:
        """A ticket that runs or waits. Raises UnknownModel, Unavailable or Overloaded."""
        ticket = self.probe(request)
        self._enter(ticket)
        return ticket

    def probe(self, request: Request) -> Ticket:
        """A ticket that takes no place. Raises UnknownModel and RouterStarting."""
        self._refresh_if_wrong()
        is_held = bool(self._formation.engines(request.model))
        if not is_held and request.model not in self._models():
            raise self._unknown(request.model)
        now_s = self._clock.monotonic()
        self._arrivals += 1
        return Ticket(request, self._arrivals, opened_at_s=now_s, served_at_s=now_s)

    def stage_lost(self, ticket: Ticket, attempt: int, node_id: str, incarnation: str) -> None:
        """The driver lost a stage: another plan follows, or the ticket fails.

        Says nothing about an attempt that was replaced already. Raises InvalidRequest when the plan
        has no such stage.
        """
        if ticket.pipeline is None or attempt != ticket.attempt:
            return
        lost = _stage(ticket.pipeline, node_id, incarnation)
        ticket.excluded.add(lost.incarnation)
        ticket.lost_nodes.append(lost.node_id)
        ticket.served_at_s = self._clock.monotonic()
        self._view.suspect(lost.node_id, lost.incarnation)
        self._admission.release(ticket)
        try:
            self._enter(ticket)
        except ShoalError as err:
            self._admission.fail(ticket, err)
        self.refresh(force=True)

    def close(self, ticket: Ticket) -> None:
        """Frees what the ticket holds and lets the next in line have it. Idempotent."""
        self._admission.leave(ticket)
        self._refresh_if_wrong()
        # A tenant's slot may be what a request for another model waits for.
        for model in self._admission.waiting_models():
            self._admission.grant(model, self._formation.all_of(model))

    def fail(self, ticket: Ticket, error: ShoalError) -> None:
        self._admission.fail(ticket, error)
        self.close(ticket)

    def details(self, ticket: Ticket) -> PlanDetails:
        """Of the plan that the ticket has got; call it once for each plan that a driver is told."""
        pipeline, choice = ticket.pipeline, ticket.choice
        assert pipeline is not None
        assert choice is not None
        self._policy.went(ticket.request, choice)
        return PlanDetails(
            step_us=choice.candidate.step_us,
            held_token_count=choice.candidate.held_token_count,
            standbys=self._formation.standbys(pipeline, ticket.demand),
            privacy=ticket.demand.proof(pipeline),
        )

    def pipelines(self, model: str) -> tuple[Pipeline, ...]:
        self.refresh()
        return self._formation.of(model)

    def pipelines_for(self, ticket: Ticket) -> tuple[Pipeline, ...]:
        """Those that do what its driver asks for, or else all."""
        self.refresh()
        return self._formation.of(ticket.model, ticket.demand) or self._formation.of(ticket.model)

    def all_pipelines(self) -> tuple[Pipeline, ...]:
        self.refresh()
        models = self._formation.models()
        return tuple(p for model in models for p in self._formation.all_of(model))

    def refresh(self, *, force: bool = False) -> None:
        """Looks at the fleet again if it may have changed, and serves those who wait."""
        self._admission.expire()
        if not (force or self._formation.is_stale):
            return
        self._formation.look()
        self._serve_all()

    async def work(self) -> None:
        """Finds better pipelines where that takes its time, and serves those who wait."""
        if await self._formation.work():
            self._serve_all()

    def _refresh_if_wrong(self) -> None:
        """What every request can afford: measured times of a second ago are good enough for it."""
        self._admission.expire()
        if self._formation.is_wrong:
            self.refresh(force=True)

    def _serve_all(self) -> None:
        found = {model: self._formation.of(model) for model in self._formation.models()}
        self._admission.observe(found)
        self._loads.review({model for model, pipelines in found.items() if pipelines})
        for model in self._admission.waiting_models():
            self._serve(model)

    def _choose(self, ticket: Ticket, free: Sequence[Pipeline]) -> Pipeline | None:
        ticket.choice = self._policy.choose(ticket.request, free)
        return ticket.choice.pipeline if ticket.choice is not None else None

    def model_states(self) -> tuple[ModelState, ...]:
        """Every model that can be loaded or that a worker has named in the last minute or so."""
        self.refresh()
        return tuple(self._state(model) for model in self._models())

    def _models(self) -> tuple[str, ...]:
        return tuple(sorted({*self._view.models(), *self._announcements.models()}))

    def _enter(self, ticket: Ticket) -> None:
        self._refresh_if_wrong()
        pipelines = self._formation.of(ticket.model, ticket.demand)
        if not any(ticket.may_use(p) for p in pipelines):
            is_coming = self._is_coming(ticket)
            if not is_coming and self._options.plan_wait_s == 0:
                raise self.why_not(ticket)
        self._admission.enter(ticket, self._formation.all_of(ticket.model))

    def _is_coming(self, ticket: Ticket) -> bool:
        """True while the model that a new request wants is being loaded for it.

        Whoever has tokens already does not wait so long. Raises LoadFailed.
        """
        if ticket.attempt > 0 or self._formation.of(ticket.model):
            return False
        if not self._loads.ask(ticket.model):
            return False
        ticket.served_at_s = self._clock.monotonic()
        percent = self._loads.percent(ticket.model)
        if percent != ticket.loading_percent:
            ticket.loading_percent = percent
            ticket.changed.set()
        return True

    def _serve(self, model: str) -> None:
        waiting = self._admission.waiting(model)
        for demand in {ticket.demand for ticket in waiting}:
            self._formation.of(model, demand)
        pipelines = self._formation.all_of(model)
        self._admission.grant(model, pipelines)
        now_s = self._clock.monotonic()
        for ticket in self._admission.waiting(model):
            if any(ticket.may_use(p) for p in pipelines):
                ticket.served_at_s = now_s
                ticket.loading_percent = None
            elif self._comes_or_fails(ticket):
                continue
            elif now_s - ticket.served_at_s >= self._options.plan_wait_s:
                self._admission.fail(ticket, self.why_not(ticket))

    def _comes_or_fails(self, ticket: Ticket) -> bool:
        """True when loading the ticket's model decides about it, one way or the other."""
        try:
            return self._is_coming(ticket)
        except LoadFailed as err:
            self._admission.fail(ticket, err)
            return True

    def _unknown(self, model: str) -> ShoalError:
        uptime_s = self._clock.monotonic() - self._started_at_s
        if uptime_s < self._options.starting_s:
            return RouterStarting(model, uptime_s)
        return UnknownModel(model, self._models())

    def why_not(self, ticket: Ticket) -> ShoalError:
        """The error that tells an operator what is missing."""
        model = ticket.model
        if self._formation.of(model):
            if not self._formation.of(model, ticket.demand):
                lack = ticket.demand.lack(self._formation.family(model))
                return PrivacyUnsatisfied(model, lack)
            return NoOtherPipeline(model, ticket.lost_nodes)
        living = self._view.statuses(model)
        progress = [s.progress_percent for s in living if s.state in ON_THE_WAY]
        state = self._state(model)
        if progress and len(progress) == len(living):
            return ModelLoading(model, min(progress))
        if not state.layer_count:
            return PlanUnavailable(f"no ready worker holds any layer of '{model}': start one")
        if state.missing:
            percent = min(progress, default=None)
            return LayersMissing(model, state.missing, loading_percent=percent)
        held = map(_layers, self._formation.family(model))
        return RangesDoNotJoin(model, sorted(set(held), key=lambda r: (r.start, r.stop)))

    def _state(self, model: str) -> ModelState:
        statuses = self._view.statuses(model, living_only=False)
        family = self._formation.family(model)
        pipelines = self._formation.of(model)
        layer_count = (
            family[0].layer_count if family else max((s.layer_count for s in statuses), default=0)
        )
        announced = self._announcements.get(model)
        if announced is not None and not family:
            # Engines that start do not know yet what they will hold.
            revision, context_length = announced.revision, announced.context_length
            layer_count = announced.layer_count
        else:
            revision = family[0].revision if family else next((s.revision for s in statuses), "")
            context_length = max((s.context_length for s in statuses), default=0)
        readiness, percent = self._readiness(model)
        return ModelState(
            model=model,
            revision=revision,
            layer_count=layer_count,
            context_length=min((p.context_length for p in pipelines), default=0) or context_length,
            readiness=readiness,
            loading_percent=percent,
            is_loadable=announced is not None,
            missing=missing_ranges(map(_layers, family), layer_count),
            pipeline_count=len(pipelines),
            worker_count=len({e.node_id for e in family}),
            **_prefix_facts(pipelines),
        )

    def _readiness(self, model: str) -> tuple[Readiness, int]:
        """What a request would meet now, and how far a load is."""
        if self._formation.of(model):
            return Readiness.READY, 100
        living = self._view.statuses(model)
        on_the_way = [s.progress_percent for s in living if s.state in ON_THE_WAY]
        percent = self._loads.percent(model)
        if percent is not None:
            return Readiness.LOADING, percent
        if on_the_way:
            return Readiness.LOADING, min(99, *on_the_way)
        is_held = any(s.state == pb.ENGINE_STATE_READY for s in living)
        if self._announcements.get(model) is not None and not is_held:
            return Readiness.LOADABLE, 0
        return Readiness.INCOMPLETE, 0


class _PrefixFacts(TypedDict):
    kv_format: str
    block_size_tokens: int
    shares_prefixes: bool


def _prefix_facts(pipelines: Sequence[Pipeline]) -> _PrefixFacts:
    """What drivers need for prefix keys: a head computes them, so that all heads must agree."""
    facts = {
        (p.stages[0].kv_format, p.stages[0].block_size_tokens, p.stages[0].shares_prefixes)
        for p in pipelines
    }
    kv_format, size, shares = facts.pop() if len(facts) == 1 else ("", 0, False)
    return _PrefixFacts(kv_format=kv_format, block_size_tokens=size, shares_prefixes=shares)


def _layers(engine: Engine) -> range:
    return range(engine.layer_start, engine.layer_stop)


def _stage(pipeline: Pipeline, node_id: str, incarnation: str) -> Engine:
    """The stage a driver speaks of: by engine process, else by node."""
    for stage in pipeline.stages:
        if stage.incarnation == incarnation:
            return stage
    for stage in pipeline.stages:
        if stage.node_id == node_id:
            return stage
    raise InvalidRequest(f"the plan has no stage on node '{node_id}'", param="node_id")
