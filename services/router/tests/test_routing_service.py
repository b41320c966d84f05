"""Prefixes, sessions and privacy at a router that runs, as drivers and workers see it."""

from __future__ import annotations

import asyncio
from typing import Any

from shoal.common.v1 import chat_pb2
from shoal.router.v1 import router_pb2 as pb
from shoal.worker.v1 import kv_pb2, pipeline_pb2
from shoal_common.errors import PlanUnavailable
from shoal_common.testing.clock import settle
from shoal_router.testing import MODEL, beat, status

from .fleet import Fleet, PlanCall, fleet_of

HERE = "host-of-the-driver"
BLOCKS = [bytes([n]) * 16 for n in range(60)]


def at(node_id: str, layers: str = "0:6", **more: Any) -> pipeline_pb2.WorkerBeat:
    """A beat; what is not of the engine is of the worker."""
    engine = status(node_id, layers)
    engine.kv_format = "f32"
    heard = beat(node_id, engine)
    heard.host_id = f"host-{node_id}"
    for name, value in more.items():
        target = heard if name in ("host_id", "reach", "region") else heard.engines[0]
        setattr(target, name, value)
    return heard


def held(node_id: str, *blocks: bytes, **more: Any) -> kv_pb2.KvChanges:
    values: dict[str, Any] = {"sequence": 1, "layer_start": 0, "layer_stop": 6} | more
    layers = f"{values['layer_start']}:{values['layer_stop']}"
    return kv_pb2.KvChanges(
        node_id=node_id, incarnation=f"{node_id}-engine-{layers}", stored=blocks, **values
    )


async def tell(fleet: Fleet, changes: kv_pb2.KvChanges) -> None:
    subject = f"shoal.worker.{changes.node_id}.kv"
    await fleet.bus.publish(subject, changes.SerializeToString())
    await settle()


async def plan(fleet: Fleet, **asked: Any) -> tuple[PlanCall, pb.Plan]:
    call = PlanCall(fleet.stub.Plan())
    await call.send(open=pb.PlanOpen(request_id="req", model=MODEL, **asked))
    response = await call.next()
    assert response.HasField("plan"), response
    return call, response.plan


def nodes(plan: pb.Plan) -> list[str]:
    return [stage.node_id for stage in plan.pipeline.stages]


LONG = {"prompt_token_count": 961, "max_tokens": 8, "prefix_block_hashes": BLOCKS}


async def test_a_prompt_goes_where_its_prefix_is_held() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("a"), at("b", layer_time_us=110))
        await tell(fleet, held("b", *BLOCKS))
        _, found = await plan(fleet, **LONG)
        assert (nodes(found), found.held_token_count) == (["b"], 960)
        await tell(fleet, kv_pb2.KvChanges.FromString(b""))
        _, found = await plan(fleet, prompt_token_count=961, max_tokens=8)
        assert (nodes(found), found.held_token_count) == (["a"], 0)


async def test_a_plan_tells_its_head_what_a_step_should_take() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("a", layer_time_us=110))
        _, found = await plan(fleet, prompt_token_count=1, max_tokens=8)
        assert found.pipeline.predicted_step_us == 6 * 110


async def test_a_restarted_router_asks_workers_what_they_hold() -> None:
    async with fleet_of() as fleet:
        asked: list[str] = []

        async def answer(_: bytes) -> bytes:
            asked.append("b")
            whole = held("b", *BLOCKS, sequence=40, is_snapshot=True)
            return kv_pb2.KvSnapshot(engines=[whole]).SerializeToString()

        await fleet.bus.reply("shoal.worker.b.kv.snapshot", answer)
        await fleet.hear(at("a"), at("b", layer_time_us=110))
        await settle()
        assert asked == ["b"]
        call, found = await plan(fleet, **LONG)
        assert nodes(found) == ["b"]
        await call.close()
        await call.call.read()
        # The next message follows on the snapshot, so that no other is asked for.
        await tell(fleet, held("b", sequence=41, forgotten=BLOCKS[30:]))
        _, found = await plan(fleet, **LONG)
        assert found.held_token_count == 480
        assert asked == ["b"]


async def test_an_engine_that_is_gone_takes_its_prefixes_along() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("a"), at("b", layer_time_us=110))
        await tell(fleet, held("b", *BLOCKS))
        again = at("b", layer_time_us=110)
        again.engines[0].incarnation, again.sequence = "restarted", 2
        await fleet.hear(again)
        await fleet.clock.advance(0.25)
        _, found = await plan(fleet, **LONG)
        assert (nodes(found), found.held_token_count) == (["a"], 0)


async def test_a_session_stays_with_its_pipeline() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("a"), at("b"))
        busy, _ = await plan(fleet)
        first, found = await plan(fleet, session_id="talk")
        assert nodes(found) == ["b"]
        await busy.close()
        await busy.call.read()
        _, found = await plan(fleet, session_id="talk")
        assert nodes(found) == ["b"]
        await first.close()


async def test_a_plan_proves_the_privacy_that_was_asked_for() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("far", reach=pipeline_pb2.REACH_PUBLIC), at("mine", host_id=HERE))
        _, found = await plan(fleet, privacy=chat_pb2.PRIVACY_LABEL_LOCAL, driver_host_id=HERE)
        assert nodes(found) == ["mine"]
        proof = found.pipeline.privacy
        assert proof.label == chat_pb2.PRIVACY_LABEL_LOCAL
        assert [(s.node_id, s.host_id) for s in proof.stages] == [("mine", HERE)]
        _, found = await plan(fleet)
        assert not found.pipeline.HasField("privacy")


async def test_a_boomerang_leads_back_to_the_driver_with_local_standbys() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(
            at("mine", "0:2", host_id=HERE),
            at("theirs", "2:5"),
            at("also-mine", "5:6", host_id=HERE),
            at("spare", "5:6", host_id=HERE, layer_time_us=9000),
            at("alone", "0:6", layer_time_us=1),
        )
        _, found = await plan(fleet, wants_boomerang=True, driver_host_id=HERE)
        assert nodes(found)[0] == "mine"
        assert nodes(found)[-1] in ("also-mine", "spare")
        assert found.pipeline.privacy.is_boomerang
        last = len(found.pipeline.stages) - 1
        ends = [s.stage.node_id for s in found.pipeline.standbys if s.stage_index in (0, last)]
        assert set(ends) <= {"also-mine", "spare"}


async def test_privacy_that_nobody_can_keep_to_says_what_lacks() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("a", "0:3", host_id=HERE), at("b", "3:6"))
        call = PlanCall(fleet.stub.Plan())
        opening = pb.PlanOpen(
            request_id="req",
            model=MODEL,
            privacy=chat_pb2.PRIVACY_LABEL_LOCAL,
            driver_host_id=HERE,
        )
        await call.send(open=opening)
        error = await call.error()
        assert isinstance(error, PlanUnavailable)
        assert "layers 3:6 are held only by workers beyond 'local'" in str(error)
        explained = await fleet.stub.ExplainPlan(pb.ExplainPlanRequest(open=opening))
        assert not any(candidate.is_chosen for candidate in explained.candidates)


async def test_a_lost_stage_is_never_replaced_by_one_beyond_the_privacy() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("mine", host_id=HERE), at("theirs"))
        call, found = await plan(fleet, privacy=chat_pb2.PRIVACY_LABEL_LOCAL, driver_host_id=HERE)
        assert nodes(found) == ["mine"]
        await call.send(
            stage_lost=pb.StageLost(attempt=1, node_id="mine", incarnation="mine-engine-0:6")
        )
        assert isinstance(await call.error(), PlanUnavailable)


async def test_models_tell_drivers_how_prefix_keys_are_made() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("a"))
        model = await fleet.model()
        assert (model.kv_format, model.block_size_tokens, model.shares_prefixes) == (
            "f32",
            16,
            False,
        )
        await fleet.hear(at("b", kv_format="int8"))
        model = await fleet.model()
        assert model.kv_format == ""


async def test_ranges_that_overlap_join_by_parts() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("a", "0:4"), at("b", "2:6"))
        _, found = await plan(fleet)
        first, second = found.pipeline.stages
        assert (first.layer_start, second.layer_stop) == (0, 6)
        assert first.layer_stop == second.layer_start
        assert 2 <= first.layer_stop <= 4


async def test_malformed_news_of_kv_is_dropped() -> None:
    async with fleet_of() as fleet:
        await fleet.hear(at("a"), at("b", layer_time_us=110))
        for subject, payload in (
            ("shoal.worker.b.kv", b"\xff no protobuf"),
            ("shoal.worker.b.kv", held("c", *BLOCKS).SerializeToString()),
            ("shoal.worker.b.kv", held("b", b"x" * 65).SerializeToString()),
            ("shoal.worker.b.kv", held("b", layer_stop=0).SerializeToString()),
        ):
            await fleet.bus.publish(subject, payload)
        await settle()
        await tell(fleet, held("b", *BLOCKS))
        async with asyncio.timeout(5):
            _, found = await plan(fleet, **LONG)
        assert found.held_token_count == 960
