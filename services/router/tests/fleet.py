"""A router that runs on a free port, with beats on a bus and a clock by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from shoal.router.v1 import router_pb2 as pb
from shoal.router.v1 import router_pb2_grpc
from shoal.shard_store.v1.announcement_pb2 import ModelAnnouncement
from shoal.worker.v1 import pipeline_pb2
from shoal_common.errors import ShoalError
from shoal_common.rpc import RpcChannel, to_shoal_error
from shoal_common.testing import FakeClock, MemoryBus
from shoal_common.testing.clock import settle
from shoal_router.app import Router, running
from shoal_router.peers import Agents
from shoal_router.settings import Settings
from shoal_router.testing import MODEL, announcement, subject


class Fleet:
    """A running router and the means to move it."""

    def __init__(self, router: Router, bus: MemoryBus, clock: FakeClock) -> None:
        self.router, self.bus, self.clock = router, bus, clock
        self.peer = RpcChannel(router.grpc_address)
        self.stub = router_pb2_grpc.RouterServiceStub(self.peer.channel)

    async def hear(self, *beats: pipeline_pb2.WorkerBeat) -> None:
        for each in beats:
            await self.bus.publish(subject(each.node_id), each.SerializeToString())
        await settle()

    async def announce(self, *models: ModelAnnouncement) -> None:
        """Without any: the model that everybody speaks of."""
        for each in models or (announcement(),):
            where = f"shoal.model.{each.model}.announce"
            await self.bus.publish(where, each.SerializeToString())
        await settle()

    async def pass_time(self, delay_s: float, *beats: pipeline_pb2.WorkerBeat) -> None:
        """Seconds in which workers go on to beat and the model to be announced."""
        for _ in range(round(delay_s)):
            await self.clock.advance(1)
            for each in beats:
                each.sequence += 1
            await self.hear(*beats)
            await self.announce()

    async def model(self) -> pb.ModelState:
        (found,) = (await self.stub.ListModels(pb.ListModelsRequest())).models
        state: pb.ModelState = found
        return state

    async def open(self, model: str = MODEL, **wanted: Any) -> PlanCall:
        call = PlanCall(self.stub.Plan())
        await call.send(open=pb.PlanOpen(request_id="req", model=model, **wanted))
        return call

    def count(self, name: str, **labels: str) -> float:
        return self.router.metrics.registry.get_sample_value(f"shoal_router_{name}", labels) or 0

    async def gives_a_slot(self) -> None:
        """Returns once a new request gets a plan; with one slot in all, it was freed then."""
        call = await self.open()
        while not (await call.next()).HasField("plan"):
            pass
        await call.close()


class PlanCall:
    """A driver's side of one plan stream."""

    def __init__(self, call: Any) -> None:
        self.call = call

    async def send(self, **event: Any) -> None:
        await self.call.write(pb.PlanRequest(**event))

    async def next(self) -> pb.PlanResponse:
        async with asyncio.timeout(5):
            response = await self.call.read()
        assert response is not grpc.aio.EOF, "the stream ended"
        found: pb.PlanResponse = response
        return found

    async def plan(self) -> tuple[int, list[str]]:
        response = await self.next()
        assert response.HasField("plan"), response
        stages = response.plan.pipeline.stages
        return response.plan.attempt, [stage.node_id for stage in stages]

    async def loading(self) -> int:
        """The percentage told next."""
        response = await self.next()
        assert response.queued.HasField("loading_percent"), response
        return response.queued.loading_percent

    async def position(self) -> int:
        response = await self.next()
        assert response.HasField("queued"), response
        return response.queued.position

    async def error(self) -> ShoalError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.next()
        return to_shoal_error(caught.value)

    async def close(self) -> None:
        await self.call.done_writing()


@asynccontextmanager
async def fleet_of(agents: Agents | None = None, **options: Any) -> AsyncIterator[Fleet]:
    clock, bus = FakeClock(), MemoryBus()
    values: dict[str, Any] = {"drain_timeout_s": 0.0, "side_address": ""}
    settings = Settings(**(values | options))
    async with running(settings, bus, clock, agents) as router:
        fleet = Fleet(router, bus, clock)
        await clock.advance(3)
        try:
            yield fleet
        finally:
            await fleet.peer.close()
