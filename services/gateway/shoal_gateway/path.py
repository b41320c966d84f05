"""Which machines answer, and how long each of them took: from the wire to the events. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.router.v1 import router_pb2
from shoal.worker.v1 import stage_pb2
from shoal_gateway.task import Route, StageTime


def route_of(plan: router_pb2.Plan, admitted: stage_pb2.Admitted) -> Route:
    """The way of one attempt; `queued_ms` counts both queues."""
    stages = tuple(
        _place(stage.node_id, stage.layer_start, stage.layer_stop) for stage in plan.pipeline.stages
    )
    return Route(plan.pipeline.pipeline_id, stages, plan.queued_ms + admitted.queued_ms)


def times_of(timings: Iterable[stage_pb2.StageTiming]) -> tuple[StageTime, ...]:
    """What the stages say of themselves, in their order; empty when they do not."""
    return tuple(
        StageTime(
            _place(timing.node_id, timing.layer_start, timing.layer_stop),
            queue_us=timing.queue_us,
            compute_us=timing.compute_us,
            wire_us=timing.wire_us,
        )
        for timing in timings
    )


def _place(node_id: str, layer_start: int, layer_stop: int) -> str:
    return f"{node_id}@{layer_start}:{layer_stop}"
