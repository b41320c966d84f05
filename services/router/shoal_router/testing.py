"""Owns: short ways to say who is in a fleet, and agents that only take notes, for tests."""

from __future__ import annotations

import asyncio

from shoal.shard_store.v1.announcement_pb2 import ModelAnnouncement
from shoal.worker.v1 import pipeline_pb2 as pb
from shoal.worker.v1 import worker_pb2
from shoal_common.errors import ShoalError
from shoal_router.pipeline import Engine

MIB = 1 << 20
GIB = 1 << 30
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
    is_empty: bool = False,
    free_bytes: int = 0,
) -> pb.WorkerBeat:
    """A beat of a node that holds the whole model unless told otherwise."""
    return pb.WorkerBeat(
        agent_locator=f"grpc:{node_id}:2",
        memory_free_bytes=free_bytes,
        node_id=node_id,
        incarnation=incarnation,
        sequence=sequence,
        engines=() if is_empty else engines or [status(node_id)],
        is_leaving=is_leaving,
    )


def subject(node_id: str) -> str:
    return f"shoal.worker.{node_id}.beat"


def announcement(model: str = MODEL, **more: object) -> ModelAnnouncement:
    """A model of 1 GiB in 256 Mi parameters."""
    values: dict[str, object] = {
        "store_id": "store",
        "model": model,
        "revision": "r1",
        "layer_count": LAYER_COUNT,
        "context_length": 512,
        "weight_bytes": GIB,
        "parameter_count": GIB // 4,
    }
    return ModelAnnouncement(**(values | more))  # type: ignore[arg-type]


class FakeAgents:
    """Agents that take every order, unless `errors` has one for the worker.

    `orders`: locator and model of every load; `requests` and `unloads` are all that was asked.
    """

    def __init__(self) -> None:
        self.orders: list[tuple[str, str]] = []
        self.requests: list[worker_pb2.LoadRequest] = []
        self.unloads: list[tuple[str, worker_pb2.UnloadRequest]] = []
        self.errors: dict[str, ShoalError] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, locator: str, request: worker_pb2.LoadRequest) -> None:
        self.orders.append((locator, request.model))
        self.requests.append(request)
        await self.gate.wait()
        if locator in self.errors:
            raise self.errors[locator]

    async def unload(self, locator: str, request: worker_pb2.UnloadRequest) -> None:
        self.unloads.append((locator, request))
        await self.gate.wait()
        if locator in self.errors:
            raise self.errors[locator]
