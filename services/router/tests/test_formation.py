from __future__ import annotations

import asyncio

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_common.testing import FakeClock
from shoal_router.fleet_view import FleetView
from shoal_router.flow import FlowOptions
from shoal_router.formation import Formation, FormationOptions
from shoal_router.pipeline import Pipeline
from shoal_router.privacy import Demand
from shoal_router.testing import MODEL, beat, status

HERE = "host-of-the-driver"
LOCAL = Demand(chat_pb2.PRIVACY_LABEL_LOCAL, host_id=HERE)


class Site:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.view = FleetView(self.clock)
        self.formation = Formation(self.view, self.clock, FormationOptions(FlowOptions()))
        self._sequence = 0

    def hear(self, node_id: str, layers: str = "0:6", **more: object) -> None:
        self._sequence += 1
        engine = status(node_id, layers)
        host_id = str(more.pop("host_id", f"host-{node_id}"))
        for name, value in more.items():
            setattr(engine, name, value)
        heard = beat(node_id, engine, sequence=self._sequence)
        heard.host_id = host_id
        self.view.hear(heard)

    def found(self, demand: Demand | None = None) -> list[list[str]]:
        self.formation.look()
        pipelines = self.formation.of(MODEL, demand or Demand())
        return [[s.node_id for s in p.stages] for p in pipelines]

    def only(self) -> Pipeline:
        self.formation.look()
        (pipeline,) = self.formation.of(MODEL)
        return pipeline


async def test_many_engines_serve_at_once_and_are_searched_well_between_requests() -> None:
    site = Site()
    for index in range(40):
        site.hear(f"n{index:02}", "0:3" if index % 2 else "3:6", layer_time_us=1000)
    site.formation.look()
    quick = site.formation.of(MODEL)
    assert 1 <= len(quick) <= 4
    assert await site.formation.work()
    assert len(site.formation.of(MODEL)) == 16
    assert not await site.formation.work()


async def test_what_dies_during_a_search_is_in_no_pipeline_afterwards() -> None:
    site = Site()
    for index in range(40):
        site.hear(f"n{index:02}", "0:3" if index % 2 else "3:6", layer_time_us=1000)
    site.formation.look()
    search = asyncio.create_task(site.formation.work())
    await asyncio.sleep(0)
    assert not search.done()
    site.clock.jump(3.5)
    for index in range(30):
        site.hear(f"n{index:02}", "0:3" if index % 2 else "3:6", layer_time_us=1000)
    site.formation.look()
    await search
    living = {f"n{index:02}" for index in range(30)}
    pipelines = site.formation.all_of(MODEL)
    assert pipelines
    assert {s.node_id for p in pipelines for s in p.stages} <= living


def test_pipelines_that_stand_keep_their_revision_and_have_the_times_of_now() -> None:
    site = Site()
    site.hear("a", layer_time_us=100)
    before = site.only()
    site.hear("a", layer_time_us=110)
    after = site.only()
    assert (after.pipeline_id, after.revision) == (before.pipeline_id, before.revision)
    assert after.time_us > before.time_us
    site.hear("a", incarnation="restarted")
    assert site.only().revision > before.revision


def test_times_that_move_far_are_searched_anew_after_a_while() -> None:
    site = Site()
    site.hear("a", "0:3")
    site.hear("b", "3:6")
    assert site.found() == [["a", "b"]]
    site.hear("c", "3:6", layer_time_us=10_000)
    assert site.found()[0] == ["a", "b"]
    for second in range(12):
        site.clock.jump(1)
        site.hear("a", "0:3")
        site.hear("b", "3:6", layer_time_us=50_000)
        site.hear("c", "3:6", layer_time_us=100)
        first = site.found()[0]
        assert second < 11 or first == ["a", "c"]


def test_a_demand_has_pipelines_of_its_own_while_somebody_serves_it() -> None:
    site = Site()
    site.hear("fast", layer_time_us=10)
    site.hear("mine", layer_time_us=900, host_id=HERE)
    assert site.found(LOCAL) == [["mine"]]
    assert ["fast"] in site.found()
    site.clock.jump(3.5)
    site.hear("fast", layer_time_us=10)
    assert site.found(LOCAL) == []
    site.hear("mine", incarnation="again", host_id=HERE)
    assert site.found(LOCAL) == [["mine"]]


def test_a_demand_that_all_machines_meet_shares_the_pipelines_of_everybody() -> None:
    site = Site()
    site.hear("a")
    site.formation.look()
    pool = Demand(chat_pb2.PRIVACY_LABEL_POOL, host_id=HERE)
    assert site.formation.of(MODEL, pool) == site.formation.of(MODEL)
    assert len(site.formation.all_of(MODEL)) == 1


def test_standbys_hold_the_stage_and_the_fastest_comes_first() -> None:
    site = Site()
    site.hear("a", "0:3", layer_time_us=10)
    site.hear("b", "3:6", layer_time_us=10)
    site.hear("slow", "2:6", layer_time_us=9000)
    site.hear("quick", "3:6", layer_time_us=8000)
    site.hear("short", "4:6", layer_time_us=7000)
    site.formation.look()
    first = site.formation.of(MODEL)[0]
    assert [s.node_id for s in first.stages] == ["a", "b"]
    front, back = site.formation.standbys(first, Demand())
    assert front == ()
    assert [(e.node_id, e.layer_start, e.layer_stop) for e in back] == [
        ("quick", 3, 6),
        ("slow", 3, 6),
    ]


def test_links_that_workers_measured_are_used_from_either_side() -> None:
    site = Site()
    heard = beat("a")
    heard.links.add(node_id="b", rtt_us=700)
    site.view.hear(heard)
    assert site.view.rtt_us("a", "b") == site.view.rtt_us("b", "a") == 700
    assert site.view.rtt_us("a", "c") == 0


def test_engines_tell_their_machines_place() -> None:
    site = Site()
    heard = beat("a")
    heard.host_id, heard.region, heard.reach = HERE, "home", pb.REACH_LAN
    site.view.hear(heard)
    (engine,) = site.view.engines()
    assert (engine.host_id, engine.region, engine.reach) == (HERE, "home", pb.REACH_LAN)
