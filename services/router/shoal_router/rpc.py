"""Owns: the router's wire forms. Translation only: decisions are the planner's."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator

import grpc

from shoal.router.v1 import router_pb2 as pb
from shoal.router.v1 import router_pb2_grpc
from shoal.worker.v1 import pipeline_pb2
from shoal_common.clock import Clock
from shoal_common.errors import InvalidRequest, ShoalError
from shoal_router.admission import Admission
from shoal_router.diagnostics import refusals_told
from shoal_router.explain import Explainer, Explanation, Way
from shoal_router.fleet_view import FleetView
from shoal_router.metrics import Metrics
from shoal_router.pipeline import Engine, Pipeline
from shoal_router.placement import Candidate
from shoal_router.planner import ModelState, PlanDetails, Planner, Readiness
from shoal_router.request import Request
from shoal_router.ticket import Ticket
from shoal_router.tiers import Tier

log = logging.getLogger(__name__)

ID_LENGTH_MAX = 256
PLACEMENTS_MAX = 32
# How often a driver that waits for another plan is told its place again.
REPEAT_S = 1.0
_READINESS = {
    Readiness.READY: pb.MODEL_READINESS_READY,
    Readiness.LOADING: pb.MODEL_READINESS_LOADING,
    Readiness.LOADABLE: pb.MODEL_READINESS_LOADABLE,
    Readiness.INCOMPLETE: pb.MODEL_READINESS_INCOMPLETE,
}


class RouterRpc(router_pb2_grpc.RouterServiceServicer):
    """One plan stream per generation; its end, however it comes, is the release."""

    def __init__(
        self,
        planner: Planner,
        view: FleetView,
        metrics: Metrics,
        clock: Clock,
        admission: Admission,
        explainer: Explainer,
        *,
        open_timeout_s: float = 5.0,
    ) -> None:
        self._planner = planner
        self._view = view
        self._metrics = metrics
        self._clock = clock
        self._admission = admission
        self._explainer = explainer
        self._open_timeout_s = open_timeout_s

    async def Plan(
        self,
        request_iterator: AsyncIterator[pb.PlanRequest],
        context: grpc.aio.ServicerContext[pb.PlanRequest, pb.PlanResponse],
    ) -> AsyncIterator[pb.PlanResponse]:
        with self._metrics.requests.observed("Plan"):
            request = request_of(await self._opening(request_iterator))
            with refusals_told(request):
                ticket = self._planner.open(request)
            reader = asyncio.create_task(self._listen(request_iterator, ticket))
            reader.add_done_callback(lambda _: ticket.changed.set())
            try:
                with refusals_told(request):
                    async for response in self._tell(ticket, reader):
                        yield response
            finally:
                self._planner.close(ticket)
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    async def ListModels(
        self,
        request: pb.ListModelsRequest,
        context: grpc.aio.ServicerContext[pb.ListModelsRequest, pb.ListModelsResponse],
    ) -> pb.ListModelsResponse:
        with self._metrics.requests.observed("ListModels"):
            return pb.ListModelsResponse(
                models=map(self._model_state, self._planner.model_states())
            )

    async def GetFleet(
        self,
        request: pb.GetFleetRequest,
        context: grpc.aio.ServicerContext[pb.GetFleetRequest, pb.GetFleetResponse],
    ) -> pb.GetFleetResponse:
        with self._metrics.requests.observed("GetFleet"):
            workers = [
                pb.FleetWorker(
                    beat=worker.beat, silent_ms=round(silent_s * 1000), is_alive=is_alive
                )
                for worker, silent_s, is_alive in self._view.workers()
            ]
            pipelines = self._planner.all_pipelines()
            waiting = self._admission.waiting_by_tier
            return pb.GetFleetResponse(
                workers=workers,
                pipelines=map(pipeline_message, pipelines),
                uses=map(self._use, pipelines),
                queues=[
                    pb.TierQueue(tier=_tier(t), waiting_count=waiting(t)) for t in reversed(Tier)
                ],
                waiting_max=self._admission.bounds.waiting_max,
            )

    async def ExplainPlan(
        self,
        request: pb.ExplainPlanRequest,
        context: grpc.aio.ServicerContext[pb.ExplainPlanRequest, pb.ExplainPlanResponse],
    ) -> pb.ExplainPlanResponse:
        with self._metrics.requests.observed("ExplainPlan"):
            _check(request.open)
            explained = await self._explainer.explain(request_of(request.open))
            return explanation_message(explained)

    def _use(self, pipeline: Pipeline) -> pb.PipelineUse:
        return pb.PipelineUse(
            pipeline_id=pipeline.pipeline_id,
            predicted_step_us=pipeline.time_us,
            tokens_per_s=pipeline.steps_per_s,
            weight=pipeline.weight,
            in_flight_count=self._admission.load(pipeline),
        )

    def _model_state(self, state: ModelState) -> pb.ModelState:
        message = _model_state(state)
        message.waiting_count = len(self._admission.waiting(state.model))
        message.in_flight_count = self._admission.in_flight_of(state.model)
        return message

    async def _opening(self, requests: AsyncIterator[pb.PlanRequest]) -> pb.PlanOpen:
        try:
            async with asyncio.timeout(self._open_timeout_s):
                first = await anext(aiter(requests), None)
        except TimeoutError as err:
            raise InvalidRequest(
                f"a plan stream must open with a PlanOpen within {self._open_timeout_s} s"
            ) from err
        if first is None or first.WhichOneof("event") != "open":
            raise InvalidRequest("the first message of a plan stream must be PlanOpen")
        _check(first.open)
        return first.open

    async def _listen(self, requests: AsyncIterator[pb.PlanRequest], ticket: Ticket) -> None:
        """Takes in what the driver says until it closes its side."""
        has_first_token = False
        async for request in requests:
            if request.HasField("stage_lost"):
                lost = request.stage_lost
                self._stage_lost(ticket, lost)
            elif request.HasField("progress"):
                first_token_ms = request.progress.time_to_first_token_ms
                if first_token_ms and not has_first_token:
                    has_first_token = True
                    self._metrics.observe_first_token(first_token_ms / 1000)
            else:
                error = InvalidRequest("an open plan stream takes stage_lost and progress")
                self._planner.fail(ticket, error)

    def _stage_lost(self, ticket: Ticket, lost: pb.StageLost) -> None:
        fields = {"attempt": lost.attempt, "node_id": lost.node_id, "reason": lost.reason}
        log.info("stage lost", extra={"diag": "plan", "request_id": ticket.request_id, **fields})
        try:
            self._planner.stage_lost(ticket, lost.attempt, lost.node_id, lost.incarnation)
        except ShoalError as err:
            self._planner.fail(ticket, err)

    async def _tell(
        self, ticket: Ticket, reader: asyncio.Task[None]
    ) -> AsyncIterator[pb.PlanResponse]:
        """Every plan, and every place in the queue on the way to it, until the driver closes."""
        told_attempt = 0
        told_place: tuple[int, int | None] = (0, None)
        while not reader.done():
            if ticket.error is not None:
                raise ticket.error
            if ticket.pipeline is not None and ticket.attempt != told_attempt:
                told_attempt, told_place = ticket.attempt, (0, None)
                waited_s = self._clock.monotonic() - ticket.opened_at_s
                self._metrics.count_plan(ticket.attempt, waited_s, ticket.standing.tier)
                details = self._planner.details(ticket)
                plan = pb.Plan(
                    attempt=ticket.attempt,
                    pipeline=pipeline_message(ticket.pipeline, details),
                    predicted_step_us=details.step_us,
                    held_token_count=details.held_token_count,
                    queued_ms=_milliseconds(waited_s) if ticket.attempt == 1 else 0,
                )
                yield pb.PlanResponse(plan=plan)
            elif ticket.position and (ticket.position, ticket.loading_percent) != told_place:
                position, percent = told_place = (ticket.position, ticket.loading_percent)
                queued = pb.QueuePosition(
                    position=position,
                    loading_percent=percent,
                    expected_wait_ms=_milliseconds(ticket.expected_wait_s),
                )
                yield pb.PlanResponse(queued=queued)
            elif not await self._has_changed(ticket):
                # Whoever lost a stage must see that the router, at least, is there.
                told_place = (0, None)
        reader.result()

    async def _has_changed(self, ticket: Ticket) -> bool:
        """Wait for news of a ticket; False when it is time to repeat what was told."""
        repeats = ticket.attempt > 0 and ticket.position > 0
        try:
            async with asyncio.timeout(REPEAT_S if repeats else None):
                await ticket.changed.wait()
        except TimeoutError:
            return False
        ticket.changed.clear()
        return True


def _check(opening: pb.PlanOpen) -> None:
    if not 0 < len(opening.model) <= ID_LENGTH_MAX:
        raise InvalidRequest(f"model must have 1 to {ID_LENGTH_MAX} characters", param="model")
    for name in ("request_id", "tenant", "session_id"):
        if len(getattr(opening, name)) > ID_LENGTH_MAX:
            raise InvalidRequest(f"{name} is over {ID_LENGTH_MAX} characters", param=name)


def request_of(opening: pb.PlanOpen) -> Request:
    return Request(
        request_id=opening.request_id,
        model=opening.model,
        tenant=opening.tenant,
        prompt_token_count=opening.prompt_token_count,
        max_tokens=opening.max_tokens,
        session_id=opening.session_id,
        privacy=opening.privacy,
        prefix_block_hashes=tuple(opening.prefix_block_hashes),
        driver_host_id=opening.driver_host_id,
        wants_boomerang=opening.wants_boomerang,
        adapter_id=opening.adapter_id,
        remaining_s=opening.remaining_ms / 1000 if opening.remaining_ms else None,
    )


def pipeline_message(
    pipeline: Pipeline, details: PlanDetails | None = None
) -> pipeline_pb2.Pipeline:
    first = pipeline.stages[0]
    return pipeline_pb2.Pipeline(
        pipeline_id=pipeline.pipeline_id,
        revision=pipeline.revision,
        model=first.model,
        model_revision=first.revision,
        stages=[_stage_message(stage) for stage in pipeline.stages],
        block_size_tokens=first.block_size_tokens,
        context_length=pipeline.context_length,
        standbys=[
            pipeline_pb2.Standby(stage_index=index, stage=_stage_message(standby))
            for index, standbys in enumerate(details.standbys if details else ())
            for standby in standbys
        ],
        privacy=details.privacy if details else None,
        predicted_step_us=pipeline.time_us,
    )


def explanation_message(explained: Explanation) -> pb.ExplainPlanResponse:
    placements = explained.placements.candidates if explained.placements else ()
    return pb.ExplainPlanResponse(
        candidates=map(_way_message, explained.ways),
        placements=map(_placement_message, placements[:PLACEMENTS_MAX]),
        waiting_count=explained.waiting_count,
        tier=_tier(explained.tier),
        problem=explained.problem,
    )


def _way_message(way: Way) -> pb.PlanCandidate:
    return pb.PlanCandidate(
        pipeline=pipeline_message(way.pipeline),
        predicted_step_us=way.pipeline.time_us,
        tokens_per_s=way.pipeline.steps_per_s,
        weight=way.pipeline.weight,
        in_flight_count=way.in_flight_count,
        held_token_count=way.weighed.held_token_count,
        cost_us=way.weighed.cost_us,
        is_chosen=way.is_chosen,
        reason=way.reason,
    )


def _placement_message(candidate: Candidate) -> pb.PlacementCandidate:
    return pb.PlacementCandidate(
        name=candidate.name,
        ranges=[
            pb.PlacedRange(
                node_id=each.node_id,
                layers=pipeline_pb2.LayerRange(
                    layer_start=each.layer_start, layer_stop=each.layer_stop
                ),
            )
            for each in candidate.ranges
        ],
        tokens_per_s=candidate.tokens_per_s,
        step_us=round(candidate.step_us) if math.isfinite(candidate.step_us) else 0,
        is_chosen=candidate.is_chosen,
        reason=candidate.reason,
    )


def _stage_message(stage: Engine) -> pipeline_pb2.PipelineStage:
    return pipeline_pb2.PipelineStage(
        node_id=stage.node_id,
        incarnation=stage.incarnation,
        layer_start=stage.layer_start,
        layer_stop=stage.layer_stop,
        locator=stage.locator,
    )


def _model_state(state: ModelState) -> pb.ModelState:
    return pb.ModelState(
        model=state.model,
        revision=state.revision,
        layer_count=state.layer_count,
        is_ready=state.is_ready,
        layers_missing=[
            pipeline_pb2.LayerRange(layer_start=layers.start, layer_stop=layers.stop)
            for layers in state.missing
        ],
        context_length=state.context_length,
        pipeline_count=state.pipeline_count,
        worker_count=state.worker_count,
        readiness=_READINESS[state.readiness],
        loading_percent=state.loading_percent,
        is_loadable=state.is_loadable,
        kv_format=state.kv_format,
        block_size_tokens=state.block_size_tokens,
        shares_prefixes=state.shares_prefixes,
    )


def _milliseconds(seconds: float | None) -> int:
    """Rounded up, so that 0 means that nothing is known; bounded as the wire is."""
    return 0 if seconds is None else min(math.ceil(seconds * 1000), 2**32 - 1)


def _tier(tier: Tier) -> str:
    return f"TIER_{tier.name}"
