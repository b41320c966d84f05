"""Owns: short ways to say who is in a fleet, for tests. Does not know: anything that runs."""

from __future__ import annotations

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_router.pipeline import Engine

MODEL = "heavyweight"
LAYER_COUNT = 6


def engine(
    node_id: str, layers: str = "0:6", *, layer_time_us: int = 100, **more: object
) -> Engine:
    """A ready engine, `layers` half-open as in "0:3"."""
    start, stop = map(int, layers.split(":"))
    values: dict[str, object] = {
        "node_id": node_id,
        "incarnation": f"{node_id}-engine-{layers}",
        "model": MODEL,
        "revision": "r1",
        "layer_start": start,
        "layer_stop": stop,
        "layer_count": LAYER_COUNT,
        "locator": f"grpc:{node_id}:1",
        "layer_time_us": layer_time_us,
    }
    return Engine(**(values | more))  # type: ignore[arg-type]


def status(
    node_id: str,
    layers: str = "0:6",
    *,
    state: pb.EngineState = pb.ENGINE_STATE_READY,
    incarnation: str = "",
    model: str = MODEL,
    progress_percent: int = 100,
) -> pb.EngineStatus:
    start, stop = map(int, layers.split(":"))
    return pb.EngineStatus(
        model=model,
        revision="r1",
        layer_start=start,
        layer_stop=stop,
        layer_count=LAYER_COUNT,
        state=state,
        locator=f"grpc:{node_id}:1",
        incarnation=incarnation or f"{node_id}-engine-{layers}",
        block_size_tokens=16,
        context_length=512,
        layer_time_us=100,
        progress_percent=progress_percent,
    )


def beat(
    node_id: str,
    *engines: pb.EngineStatus,
    sequence: int = 1,
    incarnation: str = "agent-1",
    is_leaving: bool = False,
) -> pb.WorkerBeat:
    """A beat of a node that holds the whole model unless told otherwise."""
    return pb.WorkerBeat(
        node_id=node_id,
        incarnation=incarnation,
        sequence=sequence,
        engines=engines or [status(node_id)],
        is_leaving=is_leaving,
    )


def subject(node_id: str) -> str:
    return f"shoal.worker.{node_id}.beat"
