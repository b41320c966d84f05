"""What `ExplainPlan` says of a fleet, over real gRPC."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from shoal.common.v1 import chat_pb2
from shoal.router.v1 import router_pb2 as pb
from shoal.worker.v1 import pipeline_pb2
from shoal_common.errors import ShoalError, UnknownModel
from shoal_common.rpc import to_shoal_error
from shoal_router.testing import GIB, MODEL, beat, status

from .fleet import Fleet, fleet_of


async def explain(fleet: Fleet, model: str = MODEL, **wanted: Any) -> pb.ExplainPlanResponse:
    opening = pb.PlanOpen(request_id="req", model=model, **wanted)
    explained: pb.ExplainPlanResponse = await fleet.stub.ExplainPlan(
        pb.ExplainPlanRequest(open=opening)
    )
    return explained


def of_speed(node_id: str, layer_time_us: int) -> pipeline_pb2.WorkerBeat:
    engine = status(node_id)
    engine.layer_time_us = layer_time_us
    return beat(node_id, engine)


async def test_the_chosen_pipeline_comes_first_and_others_say_what_they_lost_by() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(of_speed("slow", 300), of_speed("fast", 100))
        explained = await explain(fleet)
        nodes = [c.pipeline.stages[0].node_id for c in explained.candidates]
        assert nodes == ["fast", "slow"]
        fast, slow = explained.candidates
        assert (fast.is_chosen, slow.is_chosen) == (True, False)
        assert fast.reason == "costs least"
        assert slow.reason == "costs 3.00 times the chosen one"
        assert (fast.predicted_step_us, slow.predicted_step_us) == (600, 1800)
        assert explained.problem == ""


async def test_what_is_explained_is_what_a_plan_gets_and_takes_no_slot() -> None:
    async with fleet_of(in_flight_max=1) as fleet:
        await fleet.hear(of_speed("slow", 300), of_speed("fast", 100))
        for _ in range(3):
            chosen = (await explain(fleet)).candidates[0]
        assert fleet.count("plans_in_flight") == 0
        call = await fleet.open()
        assert await call.plan() == (1, [chosen.pipeline.stages[0].node_id])
        explained = await explain(fleet)
        assert [c.reason for c in explained.candidates] == [
            "costs least of those that may take it",
            "full: its busiest stage carries 1 requests",
        ]
        assert explained.candidates[0].pipeline.stages[0].node_id == "slow"


async def test_a_full_fleet_says_that_the_request_would_wait() -> None:
    async with fleet_of(in_flight_max=1, default_tier="silver") as fleet:
        await fleet.hear(beat("a"))
        await (await fleet.open()).plan()
        assert await (await fleet.open()).position() == 1
        explained = await explain(fleet)
        assert (explained.waiting_count, explained.tier) == (1, pb.TIER_SILVER)
        assert [c.is_chosen for c in explained.candidates] == [False]
        assert explained.candidates[0].reason.startswith("full")


async def test_a_session_is_explained_to_stay_where_it_was() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(of_speed("a", 100))
        call = await fleet.open(session_id="s")
        assert await call.plan() == (1, ["a"])
        await fleet.hear(of_speed("b", 10))
        explained = await explain(fleet, session_id="s")
        first = explained.candidates[0]
        assert first.pipeline.stages[0].node_id == "a"
        assert first.reason == "its session went there before"
        assert "times the chosen one" in explained.candidates[1].reason


async def test_privacy_that_no_pipeline_keeps_is_the_problem() -> None:
    async with fleet_of() as fleet:
        far = beat("a")
        far.reach = pipeline_pb2.REACH_PUBLIC
        await fleet.hear(far)
        explained = await explain(fleet, privacy=chat_pb2.PRIVACY_LABEL_POOL)
        assert not any(c.is_chosen for c in explained.candidates)
        refused = await (await fleet.open(privacy=chat_pb2.PRIVACY_LABEL_POOL)).error()
        assert explained.problem == str(refused)
        assert "privacy" in explained.candidates[0].reason


async def test_without_a_pipeline_the_problem_is_what_a_plan_would_be_refused_with() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(beat("a", status("a", "0:3")))
        explained = await explain(fleet)
        assert not explained.candidates
        refused = await (await fleet.open()).error()
        assert explained.problem == str(refused)
        assert "layers 3:6" in explained.problem


async def test_placements_are_explained_for_a_model_that_nobody_holds() -> None:
    async with fleet_of() as fleet:
        await fleet.announce()
        await fleet.hear(beat("big", is_empty=True, free_bytes=8 * GIB))
        await fleet.hear(beat("small", is_empty=True, free_bytes=GIB // 2))
        explained = await explain(fleet)
        chosen = [p for p in explained.placements if p.is_chosen]
        assert [[r.node_id for r in p.ranges] for p in chosen] == [["big"]]
        assert all(p.reason for p in explained.placements)
        assert explained.problem == "", "a request would have it loaded, and wait"


async def test_an_unknown_model_is_not_explained() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(beat("a"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await explain(fleet, "other")
        error: ShoalError = to_shoal_error(caught.value)
        assert isinstance(error, UnknownModel)


async def test_the_fleet_tells_how_it_is_used() -> None:
    async with fleet_of(in_flight_max=1, waiting_max=7, tenant_tiers={"t": "bronze"}) as fleet:
        await fleet.hear(beat("a"))
        await (await fleet.open()).plan()
        assert await (await fleet.open(tenant="t")).position() == 1
        seen = await fleet.stub.GetFleet(pb.GetFleetRequest())
        assert [use.in_flight_count for use in seen.uses] == [1]
        assert seen.uses[0].pipeline_id == seen.pipelines[0].pipeline_id
        assert [q.waiting_count for q in seen.queues] == [0, 0, 0, 1]
        assert seen.queues[-1].tier == pb.TIER_BRONZE
        assert seen.waiting_max == 7
        model = (await fleet.stub.ListModels(pb.ListModelsRequest())).models[0]
        assert (model.waiting_count, model.in_flight_count) == (1, 1)
