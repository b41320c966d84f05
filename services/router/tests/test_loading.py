"""Models that nobody holds are loaded for whoever asks, on one worker or in parts on several."""

from __future__ import annotations

import pytest

from shoal.router.v1 import router_pb2 as pb
from shoal.worker.v1 import pipeline_pb2, worker_pb2, worker_pb2_grpc
from shoal_common.errors import Overloaded, PlanUnavailable, ShoalError, Unavailable, UnknownModel
from shoal_common.rpc import RpcServer
from shoal_router.testing import GIB, MODEL, FakeAgents, announcement, beat, status

from .fleet import Fleet, PlanCall, fleet_of

LOADING = pipeline_pb2.ENGINE_STATE_LOADING
FAILED = pipeline_pb2.ENGINE_STATE_FAILED


def empty(
    node_id: str = "a", sequence: int = 1, free_bytes: int = 8 * GIB
) -> pipeline_pb2.WorkerBeat:
    return beat(node_id, is_empty=True, sequence=sequence, free_bytes=free_bytes)


def loading(node_id: str = "a", percent: int = 40) -> pipeline_pb2.WorkerBeat:
    engine = status(node_id, "0:0", state=LOADING, progress_percent=percent)
    return beat(node_id, engine, sequence=100)


def ready(node_id: str = "a") -> pipeline_pb2.WorkerBeat:
    return beat(node_id, sequence=1000)


def failed(detail: str, node_id: str = "a") -> pipeline_pb2.WorkerBeat:
    engine = status(node_id, "0:0", state=FAILED)
    engine.detail = detail
    return beat(node_id, engine, sequence=200, free_bytes=8 * GIB)


async def asked(fleet: Fleet) -> PlanCall:
    """A plan that waits while an order goes out."""
    call = await fleet.open()
    assert await call.loading() == 0
    return call


async def test_an_announced_model_is_listed_as_loadable() -> None:
    async with fleet_of(FakeAgents()) as fleet:
        await fleet.announce()
        model = await fleet.model()
        assert (model.model, model.is_ready, model.is_loadable) == (MODEL, False, True)
        assert model.readiness == pb.MODEL_READINESS_LOADABLE
        assert (model.revision, model.layer_count, model.context_length) == ("r1", 6, 512)
        await fleet.clock.advance(8)
        assert not (await fleet.stub.ListModels(pb.ListModelsRequest())).models
        assert isinstance(await (await fleet.open()).error(), UnknownModel)


async def test_a_plan_for_it_has_it_loaded_and_waits() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        await fleet.hear(empty("a", free_bytes=4 * GIB), empty("b"))
        call = await asked(fleet)
        assert agents.orders == [("grpc:b:2", MODEL)]
        assert agents.requests[0].memory_bytes == GIB + (256 << 20)
        assert agents.requests[0].request_id
        await fleet.pass_time(1, loading("b"))
        assert await call.loading() == 40
        model = await fleet.model()
        assert (model.readiness, model.loading_percent) == (pb.MODEL_READINESS_LOADING, 40)
        await fleet.hear(ready("b"))
        assert await call.plan() == (1, ["b"])
        assert (await fleet.model()).readiness == pb.MODEL_READINESS_READY
        assert fleet.count("loads_total", outcome="loaded") == 1


async def test_many_plans_wait_for_one_load() -> None:
    agents = FakeAgents()
    async with fleet_of(agents, waiting_max=3) as fleet:
        await fleet.announce()
        await fleet.hear(empty())
        calls = [await asked(fleet) for _ in range(3)]
        assert isinstance(await (await fleet.open()).error(), Overloaded)
        await fleet.hear(ready())
        for call in calls:
            while not (answer := await call.next()).HasField("plan"):
                pass
            assert answer.plan.attempt == 1
        assert len(agents.orders) == 1


async def test_what_a_worker_says_of_its_failure_is_what_the_driver_hears() -> None:
    agents = FakeAgents()
    async with fleet_of(agents, load_retry_s=10) as fleet:
        await fleet.announce()
        await fleet.hear(empty())
        call = await asked(fleet)
        said = failed("MODEL_DOES_NOT_FIT: 7000 MiB of weights, 5000 MiB are free")
        await fleet.pass_time(2, said)
        error = await call.error()
        assert isinstance(error, PlanUnavailable)
        assert "on a, MODEL_DOES_NOT_FIT: 7000 MiB of weights, 5000 MiB are free" in str(error)
        assert fleet.count("loads_total", outcome="failed") == 1
        again = await (await fleet.open()).error()
        assert "MODEL_DOES_NOT_FIT" in str(again)
        assert len(agents.orders) == 1
        await fleet.pass_time(10, said)
        await asked(fleet)
        assert len(agents.orders) == 2


async def test_a_beat_of_before_the_order_says_nothing_of_the_load() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        await fleet.hear(failed("the last one's reason"))
        call = await asked(fleet)
        stale = failed("the last one's reason")
        stale.sequence += 1
        await fleet.hear(stale)
        await fleet.pass_time(2, beat("a", loading().engines[0], sequence=300))
        assert await call.loading() == 40


async def test_a_load_that_takes_too_long_ends_the_waiting_but_not_the_load() -> None:
    agents = FakeAgents()
    async with fleet_of(agents, load_wait_s=5) as fleet:
        await fleet.announce()
        await fleet.hear(empty())
        call = await asked(fleet)
        slow = loading()
        await fleet.pass_time(6, slow)
        assert await call.loading() == 40
        assert "not ready within 5 s (40% done)" in str(await call.error())
        assert fleet.count("loads_total", outcome="timed_out") == 1
        await fleet.pass_time(16, slow)
        later = await fleet.open()
        assert await later.loading() == 40
        assert len(agents.orders) == 1
        await fleet.hear(ready())
        assert await later.plan() == (1, ["a"])


@pytest.mark.parametrize("error", [Unavailable("gone"), None])
async def test_another_worker_is_tried_when_the_first_is_gone(error: ShoalError | None) -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        if error is not None:
            agents.errors["grpc:a:2"] = error
        await fleet.announce()
        await fleet.hear(empty("a", free_bytes=9 * GIB), empty("b"))
        call = await asked(fleet)
        said = empty("b", sequence=5)
        while len(agents.orders) < 2:
            await fleet.pass_time(1, said)
        assert agents.orders == [("grpc:a:2", MODEL), ("grpc:b:2", MODEL)]
        await fleet.hear(ready("b"))
        assert await call.plan() == (1, ["b"])


async def test_with_no_worker_left_the_plan_fails() -> None:
    agents = FakeAgents()
    agents.errors["grpc:a:2"] = Unavailable("gone")
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        await fleet.hear(empty())
        call = await asked(fleet)
        await fleet.pass_time(2, empty(sequence=5))
        assert "on a, gone" in str(await call.error())
        assert len(agents.orders) == 1


async def test_without_room_nothing_is_ordered_and_the_figures_are_named() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        await fleet.hear(empty(free_bytes=100 << 20))
        error = await (await fleet.open()).error()
        assert "it needs about 1280 MiB; of 1 workers the one with the most room has 100" in str(
            error
        )
        assert not agents.orders


async def test_two_models_are_not_promised_the_same_memory() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        other = announcement("other")
        await fleet.announce(announcement(), other)
        await fleet.hear(empty("a", free_bytes=2 * GIB), empty("b", free_bytes=GIB * 3 // 2))
        await asked(fleet)
        assert await (await fleet.open("other")).loading() == 0
        assert agents.orders == [("grpc:a:2", MODEL), ("grpc:b:2", "other")]


async def test_a_model_of_which_a_part_is_pinned_is_left_to_those_who_hold_it() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        part = status("a", "0:3")
        part.is_pinned = True
        await fleet.hear(beat("a", part, free_bytes=8 * GIB))
        assert "layers 3:6" in str(await (await fleet.open()).error())
        assert (await fleet.model()).readiness == pb.MODEL_READINESS_INCOMPLETE
        assert not agents.orders


async def test_a_model_that_a_worker_loads_by_itself_is_waited_for() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        await fleet.hear(loading())
        call = await fleet.open()
        assert await call.loading() == 40
        await fleet.hear(ready())
        assert await call.plan() == (1, ["a"])
        assert not agents.orders


async def test_a_generation_that_lost_its_stage_does_not_wait_for_a_load() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        await fleet.hear(beat("a", free_bytes=8 * GIB))
        call = await fleet.open()
        await call.plan()
        await call.send(stage_lost=pb.StageLost(attempt=1, node_id="a"))
        assert isinstance(await call.error(), PlanUnavailable)


async def test_a_malformed_announcement_is_counted_and_ignored() -> None:
    async with fleet_of(FakeAgents()) as fleet:
        await fleet.bus.publish("shoal.model.x.announce", b"\xff no protobuf")
        await fleet.announce()
        assert fleet.count("announcements_total", outcome="malformed") == 1
        assert fleet.count("announcements_total", outcome="heard") == 1


class RealAgent(worker_pb2_grpc.WorkerServiceServicer):
    """Takes the order at the second time of asking."""

    def __init__(self) -> None:
        self.requests: list[worker_pb2.LoadRequest] = []

    async def Load(
        self, request: worker_pb2.LoadRequest, context: object
    ) -> worker_pb2.LoadResponse:
        self.requests.append(request)
        if len(self.requests) == 1:
            raise Unavailable("not now")
        return worker_pb2.LoadResponse()


async def test_the_order_goes_to_the_worker_over_grpc_and_is_safe_to_repeat() -> None:
    server, agent = RpcServer("127.0.0.1:0", drain_timeout_s=0), RealAgent()
    server.add(worker_pb2_grpc.add_WorkerServiceServicer_to_server, agent)
    address = await server.start()
    try:
        async with fleet_of() as fleet:
            await fleet.announce()
            said = empty()
            said.agent_locator = f"grpc:{address}"
            await fleet.hear(said)
            call = await asked(fleet)
            while len(agent.requests) < 2:
                await fleet.stub.ListModels(pb.ListModelsRequest())
            assert agent.requests[0] == agent.requests[1]
            assert agent.requests[0].model == MODEL
            await fleet.hear(ready())
            assert await call.plan() == (1, ["a"])
    finally:
        await server.stop()


def parts_of(agents: FakeAgents) -> list[tuple[str, int, int]]:
    """What was ordered: locator and layers."""
    orders = zip(agents.orders, agents.requests, strict=True)
    return [(where, r.layer_start, r.layer_stop) for (where, _), r in orders]


def part(
    node_id: str,
    layers: str,
    state: pipeline_pb2.EngineState = pipeline_pb2.ENGINE_STATE_READY,
    percent: int = 100,
    sequence: int = 100,
) -> pipeline_pb2.WorkerBeat:
    engine = status(node_id, layers, state=state, progress_percent=percent)
    return beat(node_id, engine, sequence=sequence, free_bytes=GIB)


async def test_a_model_too_large_for_one_worker_is_loaded_in_parts_on_several() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        await fleet.hear(empty("a", free_bytes=GIB), empty("b", free_bytes=GIB))
        call = await asked(fleet)
        assert parts_of(agents) == [("grpc:a:2", 0, 3), ("grpc:b:2", 3, 6)]
        assert {r.memory_bytes for r in agents.requests} == {3 * (GIB // 6) + (256 << 20)}
        await fleet.hear(part("a", "0:3", LOADING, 70), part("b", "3:6", LOADING, 20))
        await fleet.pass_time(1)
        assert await call.loading() == 20
        await fleet.hear(part("a", "0:3", sequence=200), part("b", "3:6", sequence=200))
        assert await call.plan() == (1, ["a", "b"])
        assert fleet.count("loads_total", outcome="loaded") == 1


@pytest.mark.parametrize("fault", ["refuses", "silent", "does not fit", "drops it"])
async def test_a_part_that_fails_goes_elsewhere_and_the_others_stay(fault: str) -> None:
    agents = FakeAgents()
    if fault == "refuses":
        agents.errors["grpc:b:2"] = Unavailable("gone")
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        said_b = empty("b", free_bytes=GIB)
        await fleet.hear(empty("a", free_bytes=GIB), said_b, empty("c", free_bytes=GIB * 3 // 4))
        call = await asked(fleet)
        assert parts_of(agents)[:2] == [("grpc:a:2", 0, 3), ("grpc:b:2", 3, 6)]
        said = [part("a", "0:3", LOADING, 10), empty("c", 100, free_bytes=GIB * 3 // 4)]
        if fault == "does not fit":
            said_b = part("b", "3:6", FAILED)
            said_b.engines[0].detail = "MODEL_DOES_NOT_FIT: 700 MiB of weights, 500 MiB are free"
        said += [] if fault == "silent" else [said_b]
        while len(agents.orders) < 3:
            await fleet.pass_time(1, *said)
        assert parts_of(agents)[2:] == [("grpc:c:2", 3, 6)]
        await fleet.hear(part("a", "0:3", sequence=500), part("c", "3:6", sequence=500))
        while not (answer := await call.next()).HasField("plan"):
            pass
        assert [stage.node_id for stage in answer.plan.pipeline.stages] == ["a", "c"]


async def test_when_no_machine_is_left_for_a_part_the_plan_fails() -> None:
    agents = FakeAgents()
    agents.errors["grpc:b:2"] = Unavailable("gone")
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        await fleet.hear(empty("a", free_bytes=GIB * 13 // 16), empty("b", free_bytes=GIB))
        call = await asked(fleet)
        full = part("a", "0:3", LOADING)
        full.memory_free_bytes = 0
        await fleet.pass_time(2, full, empty("b", 100, free_bytes=GIB))
        assert "on b, gone" in str(await call.error())
        assert len(agents.orders) == 2


async def test_parts_that_are_missing_are_loaded_beside_those_that_are_held() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        held = part("a", "0:3")
        held.memory_free_bytes = 0
        await fleet.hear(held, empty("b", free_bytes=GIB))
        call = await asked(fleet)
        assert parts_of(agents) == [("grpc:b:2", 3, 6)]
        await fleet.hear(part("b", "3:6"))
        assert await call.plan() == (1, ["a", "b"])


async def test_parts_that_others_are_loading_are_waited_for() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        await fleet.announce()
        await fleet.hear(part("a", "0:3"), part("b", "3:6", LOADING, 30))
        call = await fleet.open()
        assert await call.loading() == 30
        await fleet.hear(part("b", "3:6", sequence=200))
        assert await call.plan() == (1, ["a", "b"])
        assert not agents.orders


async def test_memory_of_one_host_is_promised_once_to_all_of_its_workers() -> None:
    agents = FakeAgents()
    async with fleet_of(agents) as fleet:
        other = announcement("other")
        await fleet.announce(announcement(), other)
        beats = [empty(node_id, free_bytes=GIB * 11 // 8) for node_id in "ab"]
        for each in beats:
            each.host_id = "one box"
        await fleet.hear(*beats)
        await asked(fleet)
        assert "room" in str(await (await fleet.open("other")).error())
        assert len(agents.orders) == 1
