"""What the router says of its fleet, as plain rows. Pure; the same for tables and for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2


@dataclass(frozen=True)
class WorkerRow:
    """A worker that the router remembers; `silent_ms` since its last beat."""

    node_id: str
    region: str
    host_id: str
    reach: str
    is_alive: bool
    is_leaving: bool
    is_locked: bool
    silent_ms: int
    device: str
    core_count: int
    memory_free_bytes: int
    memory_total_bytes: int
    version: str


@dataclass(frozen=True)
class EngineRow:
    """Layers of a model on a worker. tokens_per_s: through these layers, for one request; 0 until
    measured. `layers` is empty while they are not known."""

    node_id: str
    model: str
    layers: str
    state: str
    progress_percent: int
    detail: str
    backend: str
    tokens_per_s: float
    running_count: int
    running_max: int
    waiting_count: int
    kv_tokens_free: int
    kv_tokens_total: int
    is_pinned: bool


@dataclass(frozen=True)
class LinkRow:
    """As the source has measured it; bytes_per_s is 0 until enough was sent."""

    source: str
    target: str
    rtt_us: int
    bytes_per_s: int


@dataclass(frozen=True)
class PipelineRow:
    """tokens_per_s: of all its requests, at most; 0 while it cannot be told. share: of the
    requests of its model, 0 to 1."""

    pipeline_id: str
    revision: int
    model: str
    stages: tuple[str, ...]
    predicted_step_us: int
    tokens_per_s: float
    share: float
    in_flight_count: int


@dataclass(frozen=True)
class ModelRow:
    """`missing` are the ranges that nobody holds."""

    model: str
    state: str
    missing: tuple[str, ...]
    loading_percent: int
    layer_count: int
    context_length: int
    pipeline_count: int
    worker_count: int
    in_flight_count: int
    waiting_count: int


@dataclass(frozen=True)
class QueueRow:
    """Requests of a tier that wait."""

    tier: str
    waiting_count: int


@dataclass(frozen=True)
class FleetRows:
    """A whole fleet at one moment."""

    workers: tuple[WorkerRow, ...]
    engines: tuple[EngineRow, ...]
    links: tuple[LinkRow, ...]
    pipelines: tuple[PipelineRow, ...]
    models: tuple[ModelRow, ...]
    queue: tuple[QueueRow, ...]
    waiting_max: int


def fleet_rows(
    fleet: router_pb2.GetFleetResponse, models: router_pb2.ListModelsResponse
) -> FleetRows:
    """Sorted by name, so that nothing jumps about while it is watched."""
    workers = sorted(fleet.workers, key=lambda worker: worker.beat.node_id)
    return FleetRows(
        workers=tuple(map(_worker, workers)),
        engines=tuple(row for worker in workers for row in _engines(worker.beat)),
        links=tuple(row for worker in workers for row in _links(worker.beat)),
        pipelines=tuple(_pipelines(fleet)),
        models=tuple(map(_model, models.models)),
        queue=tuple(QueueRow(tier_name(each.tier), each.waiting_count) for each in fleet.queues),
        waiting_max=fleet.waiting_max,
    )


def tier_name(tier: router_pb2.Tier) -> str:
    return router_pb2.Tier.Name(tier).removeprefix("TIER_").lower()


def stage_names(pipeline: pipeline_pb2.Pipeline) -> tuple[str, ...]:
    """ "node@0:3" for each stage."""
    return tuple(f"{s.node_id}@{s.layer_start}:{s.layer_stop}" for s in pipeline.stages)


def _worker(worker: router_pb2.FleetWorker) -> WorkerRow:
    beat = worker.beat
    reach = pipeline_pb2.Reach.Name(beat.reach).removeprefix("REACH_").lower()
    return WorkerRow(
        node_id=beat.node_id,
        region=beat.region,
        host_id=beat.host_id,
        reach="" if reach == "unspecified" else reach,
        is_alive=worker.is_alive,
        is_leaving=beat.is_leaving,
        is_locked=beat.is_locked,
        silent_ms=worker.silent_ms,
        device=beat.device,
        core_count=beat.core_count,
        memory_free_bytes=beat.memory_free_bytes,
        memory_total_bytes=beat.memory_total_bytes,
        version=beat.version,
    )


def _engines(beat: pipeline_pb2.WorkerBeat) -> Iterator[EngineRow]:
    for engine in sorted(beat.engines, key=lambda e: (e.model, e.layer_start)):
        state = pipeline_pb2.EngineState.Name(engine.state).removeprefix("ENGINE_STATE_").lower()
        step_us = engine.layer_time_us * (engine.layer_stop - engine.layer_start)
        yield EngineRow(
            node_id=beat.node_id,
            model=engine.model,
            layers=f"{engine.layer_start}:{engine.layer_stop}" if engine.layer_stop else "",
            state=state,
            progress_percent=engine.progress_percent,
            detail=engine.detail,
            backend=engine.backend,
            tokens_per_s=1e6 / step_us if step_us else 0.0,
            running_count=engine.running_count,
            running_max=engine.running_max,
            waiting_count=engine.waiting_count,
            kv_tokens_free=engine.kv_blocks_free * engine.block_size_tokens,
            kv_tokens_total=engine.kv_blocks_total * engine.block_size_tokens,
            is_pinned=engine.is_pinned,
        )


def _links(beat: pipeline_pb2.WorkerBeat) -> Iterator[LinkRow]:
    for link in sorted(beat.links, key=lambda link: link.node_id):
        yield LinkRow(beat.node_id, link.node_id, link.rtt_us, link.bytes_per_s)


def _pipelines(fleet: router_pb2.GetFleetResponse) -> Iterator[PipelineRow]:
    # A router of before tells pipelines alone.
    uses = [*fleet.uses, *[router_pb2.PipelineUse()] * (len(fleet.pipelines) - len(fleet.uses))]
    for pipeline, use in zip(fleet.pipelines, uses, strict=True):
        yield PipelineRow(
            pipeline_id=pipeline.pipeline_id,
            revision=pipeline.revision,
            model=pipeline.model,
            stages=stage_names(pipeline),
            predicted_step_us=use.predicted_step_us,
            tokens_per_s=use.tokens_per_s,
            share=use.weight,
            in_flight_count=use.in_flight_count,
        )


def _model(model: router_pb2.ModelState) -> ModelRow:
    state = router_pb2.ModelReadiness.Name(model.readiness).removeprefix("MODEL_READINESS_")
    return ModelRow(
        model=model.model,
        state=state.lower(),
        missing=tuple(f"{each.layer_start}:{each.layer_stop}" for each in model.layers_missing),
        loading_percent=model.loading_percent,
        layer_count=model.layer_count,
        context_length=model.context_length,
        pipeline_count=model.pipeline_count,
        worker_count=model.worker_count,
        in_flight_count=model.in_flight_count,
        waiting_count=model.waiting_count,
    )
