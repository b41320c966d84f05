"""The router as its drivers see it: real gRPC on a free port, beats on a bus, a clock by hand."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from typing import Any

import grpc
import pytest

from shoal.router.v1 import router_pb2 as pb
from shoal.router.v1 import router_pb2_grpc
from shoal_common.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PlanUnavailable,
    UnknownModel,
)
from shoal_common.rpc import RpcChannel
from shoal_router.testing import MODEL, beat, status

from .fleet import PlanCall, fleet_of

HOLD_A_PLAN = """
import sys, time, grpc
from shoal.router.v1 import router_pb2 as pb, router_pb2_grpc
def requests():
    yield pb.PlanRequest(open=pb.PlanOpen(request_id="held", model=sys.argv[2]))
    time.sleep(60)
stub = router_pb2_grpc.RouterServiceStub(grpc.insecure_channel(sys.argv[1]))
for response in stub.Plan(requests()):
    print("planned" if response.HasField("plan") else "queued", flush=True)
"""


async def test_plan_names_every_stage_in_order() -> None:
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(beat("b", status("b", "3:6")), beat("a", status("a", "0:3")))
        call = await fleet.open()
        plan = (await call.next()).plan
        assert [(s.node_id, s.layer_start, s.layer_stop) for s in plan.pipeline.stages] == [
            ("a", 0, 3),
            ("b", 3, 6),
        ]
        assert plan.attempt == 1
        assert plan.pipeline.stages[0].locator == "grpc:a:1"
        assert plan.pipeline.stages[0].incarnation == "a-engine-0:3"
        assert (plan.pipeline.model, plan.pipeline.model_revision) == (MODEL, "r1")
        assert (plan.pipeline.block_size_tokens, plan.pipeline.context_length) == (16, 512)
        await call.close()
        assert await call.call.read() is grpc.aio.EOF
        await fleet.gives_a_slot()


async def test_plan_never_names_a_worker_silent_for_longer_than_the_timeout() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(beat("a"))
        await fleet.clock.advance(3.01)
        error = await (await fleet.open()).error()
        assert isinstance(error, PlanUnavailable)
        assert "layers 0:6 of 'heavyweight'" in str(error)


async def test_a_driver_that_dies_frees_its_slot_for_the_next_in_line() -> None:
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(beat("a"))
        dying_peer = RpcChannel(fleet.router.grpc_address)
        dying = PlanCall(router_pb2_grpc.RouterServiceStub(dying_peer.channel).Plan())
        await dying.send(open=pb.PlanOpen(request_id="dying", model=MODEL))
        await dying.plan()
        waiting = await fleet.open()
        assert await waiting.position() == 1
        await dying_peer.close()
        assert await waiting.plan() == (1, ["a"])
        waiting.call.cancel()
        await fleet.gives_a_slot()


async def test_a_gateway_that_is_killed_frees_its_slots_at_once() -> None:
    """A real process, killed while it holds a plan: nothing of it says goodbye."""
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(beat("a"))
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLD_A_PLAN, fleet.router.grpc_address, MODEL, stdout=PIPE
        )
        try:
            assert holder.stdout is not None
            assert await holder.stdout.readline() == b"planned\n"
            waiting = await fleet.open()
            assert await waiting.position() == 1
        finally:
            holder.kill()
            await holder.wait()
        assert await waiting.plan() == (1, ["a"])


async def test_tiers_are_served_by_their_settings_and_counted() -> None:
    tiers = {"tenant_tiers": {"poor": "bronze", "rich": "platinum"}, "default_tier": "silver"}
    async with fleet_of(in_flight_max=1, **tiers) as fleet:
        await fleet.hear(beat("a"))
        running = await fleet.open()
        await running.plan()
        calls = {}
        for tenant in ("poor", "", "rich"):
            calls[tenant] = await fleet.open(tenant=tenant)
            assert await calls[tenant].position() == 1
        assert fleet.count("plans_waiting", tier="bronze") == 1
        assert await calls["poor"].position() == 2
        await running.close()
        assert await calls["rich"].plan() == (1, ["a"])
        assert fleet.count("plan_wait_seconds_count", tier="platinum") == 1


async def test_a_full_queue_tells_drivers_the_place_and_when_to_come_back() -> None:
    async with fleet_of(in_flight_max=1, waiting_max=1) as fleet:
        await fleet.hear(beat("a"))
        served = await fleet.open()
        await served.plan()
        await fleet.clock.advance(2)
        await fleet.hear(beat("a", sequence=2))
        await served.close()
        assert await served.call.read() is grpc.aio.EOF
        await (await fleet.open()).plan()
        queued = (await (await fleet.open()).next()).queued
        assert (queued.position, queued.expected_wait_ms) == (1, 2000)
        error = await (await fleet.open()).error()
        assert isinstance(error, Overloaded)
        assert vars(error) == {"queue_position": 2, "retry_after_s": 4.0}


async def test_a_request_whose_time_ends_in_the_queue_is_told_and_gone() -> None:
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(beat("a"))
        await (await fleet.open()).plan()
        hasty = await fleet.open(remaining_ms=500)
        assert await hasty.position() == 1
        patient = await fleet.open()
        assert await patient.position() == 2
        await fleet.clock.advance(0.5)
        assert isinstance(await hasty.error(), DeadlineExceeded)
        assert await patient.position() == 1


async def test_the_queue_is_first_come_first_served_and_tells_positions() -> None:
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(beat("a"))
        running_call = await fleet.open()
        await running_call.plan()
        waiting = []
        for expected in (1, 2, 3):
            waiting.append(await fleet.open())
            assert await waiting[-1].position() == expected
        await running_call.close()
        assert await waiting[0].plan() == (1, ["a"])
        assert [await call.position() for call in waiting[1:]] == [1, 2]
        waiting[1].call.cancel()
        assert await waiting[2].position() == 1


async def test_beyond_the_queue_requests_are_refused() -> None:
    async with fleet_of(in_flight_max=1, waiting_max=1) as fleet:
        await fleet.hear(beat("a"))
        await (await fleet.open()).plan()
        assert await (await fleet.open()).position() == 1
        assert isinstance(await (await fleet.open()).error(), Overloaded)


async def test_a_lost_stage_is_replaced_and_without_substitute_the_plan_fails() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(beat("a"), beat("b"))
        call = await fleet.open()
        assert await call.plan() == (1, ["a"])
        lost = pb.StageLost(attempt=1, node_id="a", incarnation="a-engine-0:6", reason="gone")
        await call.send(stage_lost=lost)
        assert await call.plan() == (2, ["b"])
        await call.send(stage_lost=pb.StageLost(attempt=2, node_id="b"))
        assert isinstance(await call.error(), PlanUnavailable)
        assert fleet.count("plans_in_flight") == 0


async def test_a_driver_that_waits_for_another_plan_hears_that_the_router_lives() -> None:
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(beat("a"), beat("b"))
        call, other = await fleet.open(), await fleet.open()
        assert (await call.plan())[1] + (await other.plan())[1] == ["a", "b"]
        await call.send(stage_lost=pb.StageLost(attempt=1, node_id="a"))
        assert [await call.position() for _ in range(3)] == [1, 1, 1]
        await other.close()
        assert await call.plan() == (2, ["b"])


async def test_a_waiting_request_learns_that_the_fleet_died() -> None:
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(beat("a"))
        await (await fleet.open()).plan()
        waiting = await fleet.open()
        await waiting.position()
        await fleet.clock.advance(3.5)
        assert isinstance(await waiting.error(), PlanUnavailable)


async def test_a_malformed_beat_is_counted_and_ignored() -> None:
    async with fleet_of() as fleet:
        await fleet.bus.publish("shoal.worker.a.beat", b"\xff not protobuf")
        await fleet.hear(beat("a"))
        assert fleet.count("beats_total", outcome="malformed") == 1
        assert fleet.count("beats_total", outcome="joined") == 1
        assert await (await fleet.open()).plan() == (1, ["a"])


async def test_unknown_model_is_not_found() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(beat("a"))
        assert isinstance(await (await fleet.open("other")).error(), UnknownModel)


@pytest.mark.parametrize(
    "event",
    [
        {"progress": pb.PlanProgress(token_count=1)},
        {"open": pb.PlanOpen(request_id="r")},
        {"open": pb.PlanOpen(request_id="r", model="m" * 257)},
    ],
)
async def test_a_stream_that_opens_wrongly_is_refused(event: dict[str, Any]) -> None:
    async with fleet_of() as fleet:
        call = PlanCall(fleet.stub.Plan())
        await call.send(**event)
        assert isinstance(await call.error(), InvalidRequest)


async def test_a_second_opening_ends_the_stream_and_frees_the_slot() -> None:
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(beat("a"))
        call = await fleet.open()
        await call.plan()
        await call.send(open=pb.PlanOpen(request_id="again", model=MODEL))
        assert isinstance(await call.error(), InvalidRequest)
        await fleet.gives_a_slot()


async def test_models_and_fleet_are_listed() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(beat("a", status("a", "0:3")))
        (model,) = (await fleet.stub.ListModels(pb.ListModelsRequest())).models
        assert (model.model, model.is_ready, model.layer_count) == (MODEL, False, 6)
        assert [(r.layer_start, r.layer_stop) for r in model.layers_missing] == [(3, 6)]
        await fleet.hear(beat("b", status("b", "3:6")))
        await fleet.clock.advance(1.5)
        seen = await fleet.stub.GetFleet(pb.GetFleetRequest())
        assert [(w.beat.node_id, w.silent_ms, w.is_alive) for w in seen.workers] == [
            ("a", 1500, True),
            ("b", 1500, True),
        ]
        assert [stage.node_id for stage in seen.pipelines[0].stages] == ["a", "b"]
        await fleet.clock.advance(2)
        seen = await fleet.stub.GetFleet(pb.GetFleetRequest())
        assert [w.is_alive for w in seen.workers] == [False, False]
        assert not seen.pipelines
