"""A running router moves layers of models that are pressed, slow or incomplete, by orders."""

from __future__ import annotations

import pytest

from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_common.errors import Unavailable
from shoal_router.testing import GIB, FakeAgents, announcement, beat, status

from .fleet import Fleet, fleet_of

TICK_S = 2


def busy(
    node_id: str, layers: str = "0:6", running_count: int = 4, **more: int
) -> pipeline_pb2.WorkerBeat:
    """A worker whose engine runs all it can, unless told otherwise."""
    engine = status(node_id, layers)
    engine.running_count, engine.running_max = running_count, 4
    for name, value in more.items():
        setattr(engine, name, value)
    return beat(node_id, engine, sequence=1)


def empty(node_id: str = "b", free_bytes: int = 8 * GIB) -> pipeline_pb2.WorkerBeat:
    return beat(node_id, is_empty=True, free_bytes=free_bytes)


def ordered(agents: FakeAgents) -> list[tuple[str, int, int]]:
    pairs = zip(agents.orders, agents.requests, strict=True)
    return [(where, r.layer_start, r.layer_stop) for (where, _), r in pairs]


async def looks(fleet: Fleet, count: int, *beats: pipeline_pb2.WorkerBeat) -> None:
    """So many ticks in which these workers beat."""
    for each in beats:
        each.sequence = round(fleet.clock.monotonic() * 2)
    await fleet.announce()
    await fleet.hear(*beats)
    await fleet.pass_time(count * TICK_S, *beats)


async def test_a_busy_model_is_loaded_on_another_worker_after_three_looks() -> None:
    agents = FakeAgents()
    async with fleet_of(agents, rebalance_tick_s=TICK_S) as fleet:
        said = [busy("a"), empty()]
        await looks(fleet, 2, *said)
        assert not agents.orders
        await looks(fleet, 1, *said)
        assert ordered(agents) == [("grpc:b:2", 0, 0)]
        assert agents.requests[0].memory_bytes == GIB + (256 << 20)
        await looks(fleet, 4, busy("a"), busy("b"))
        assert len(agents.orders) == 1
        assert not agents.unloads
        assert fleet.count("moves_total", kind="load") == 1


@pytest.mark.parametrize(
    ("beats", "options"),
    [
        pytest.param([busy("a"), empty()], {"rebalance": False}, id="switched off"),
        pytest.param([busy("a", running_count=1), empty()], {}, id="not busy"),
        pytest.param([busy("a"), empty(free_bytes=GIB // 8)], {}, id="no room"),
    ],
)
async def test_nothing_moves(
    beats: list[pipeline_pb2.WorkerBeat], options: dict[str, bool]
) -> None:
    agents = FakeAgents()
    async with fleet_of(agents, rebalance_tick_s=TICK_S, **options) as fleet:
        await looks(fleet, 5, *beats)
        assert not agents.orders


async def test_a_faster_worker_takes_over_and_the_slower_one_lets_go() -> None:
    agents = FakeAgents()
    async with fleet_of(agents, rebalance_tick_s=TICK_S, rebalance_drain_s=7) as fleet:
        slow = busy("a", running_count=0, layer_time_us=300_000, weight_bytes=GIB)
        fast = empty()
        fast.device = "cuda"
        await looks(fleet, 3, slow, fast)
        assert ordered(agents) == [("grpc:b:2", 0, 0)]
        assert not agents.unloads
        await looks(fleet, 2, slow, busy("b", running_count=0))
        # Under both names by which its worker may know it.
        assert [(o.layer_start, o.layer_stop) for _, o in agents.unloads[:2]] == [(0, 0), (0, 6)]
        assert {where for where, _ in agents.unloads} == {"grpc:a:2"}
        assert {o.drain_ms for _, o in agents.unloads} == {7000}


async def test_an_order_that_its_worker_drops_ends_the_move() -> None:
    agents = FakeAgents()
    async with fleet_of(agents, rebalance_tick_s=TICK_S) as fleet:
        await looks(fleet, 8, busy("a"), empty())
        assert len(agents.orders) == 1
        assert "b alone" in await ways_to_place(fleet, "other")


async def test_missing_layers_beside_a_pin_are_loaded_without_anybody_asking() -> None:
    agents = FakeAgents()
    async with fleet_of(agents, rebalance_tick_s=TICK_S) as fleet:
        await looks(fleet, 4, busy("a", "0:3", running_count=0, is_pinned=True), empty("b", GIB))
        assert ordered(agents) == [("grpc:b:2", 3, 6)]


async def test_a_worker_that_refuses_ends_the_move() -> None:
    agents = FakeAgents()
    agents.errors["grpc:b:2"] = Unavailable("gone")
    async with fleet_of(agents, rebalance_tick_s=TICK_S) as fleet:
        said = [busy("a"), empty()]
        await looks(fleet, 8, *said)
        assert len(agents.orders) == 1
        # Its memory is no longer promised to anybody.
        assert "b alone" in await ways_to_place(fleet, "other")


async def ways_to_place(fleet: Fleet, model: str) -> list[str]:
    """Of a model of the same size that nobody holds."""
    await fleet.announce(announcement(model))
    asked = router_pb2.ExplainPlanRequest(open=router_pb2.PlanOpen(model=model))
    shown: router_pb2.ExplainPlanResponse = await fleet.stub.ExplainPlan(asked)
    return [candidate.name for candidate in shown.placements]
