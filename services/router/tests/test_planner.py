from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_common.errors import InvalidRequest, UnknownModel
from shoal_common.testing import FakeClock
from shoal_router.admission import Admission, Bounds
from shoal_router.announcements import Announcements
from shoal_router.errors import (
    LayersMissing,
    ModelLoading,
    NoOtherPipeline,
    RangesDoNotJoin,
    RouterStarting,
)
from shoal_router.fleet_view import FleetView
from shoal_router.flow import FlowOptions
from shoal_router.formation import Formation, FormationOptions
from shoal_router.loading import LoadOptions, Loads
from shoal_router.metrics import Metrics
from shoal_router.offers import OfferOptions, Offers
from shoal_router.orders import Orders
from shoal_router.planner import Planner, PlannerOptions
from shoal_router.policy import Policy, PolicyOptions
from shoal_router.prefix_index import PrefixIndex
from shoal_router.request import Request
from shoal_router.sessions import NoStore, Sessions
from shoal_router.testing import MODEL, FakeAgents, beat, status
from shoal_router.ticket import Ticket


@dataclass
class Fleet:
    clock: FakeClock
    view: FleetView
    admission: Admission
    planner: Planner

    def open(self, request_id: str = "req", **asked: Any) -> Ticket:
        return self.planner.open(Request(request_id, MODEL, **asked))


def make_fleet(
    *, plan_wait_s: float = 0.0, in_flight_max: int = 8, uses_parts: bool = True
) -> Fleet:
    clock = FakeClock()
    view = FleetView(clock)
    admission = Admission(Bounds(in_flight_max, waiting_max=8), clock=clock)
    options = PlannerOptions(plan_wait_s=plan_wait_s)
    planner = make_planner(view, admission, clock, options, uses_parts=uses_parts)
    clock.jump(3)
    return Fleet(clock, view, admission, planner)


def make_planner(
    view: FleetView,
    admission: Admission,
    clock: FakeClock,
    options: PlannerOptions,
    *,
    uses_parts: bool = True,
) -> Planner:
    """Of a fleet whose shard-stores announce nothing."""
    announcements = Announcements(clock, timeout_s=7.0)
    metrics = Metrics(CollectorRegistry())
    orders = Orders(FakeAgents(), clock)
    offers = Offers(view, announcements, orders, OfferOptions())
    loads = Loads(view, announcements, offers, orders, clock, LoadOptions(), metrics)
    formation = Formation(view, clock, FormationOptions(FlowOptions(uses_parts=uses_parts)))
    sessions = Sessions(clock, NoStore(), ttl_s=60.0, count_max=8)
    policy = Policy(PrefixIndex(64), sessions, admission.plans_on, formation.times, PolicyOptions())
    return Planner(view, formation, policy, admission, clock, options, announcements, loads)


def node_ids(ticket: Ticket) -> list[str]:
    assert ticket.pipeline is not None
    return [stage.node_id for stage in ticket.pipeline.stages]


def test_plan_skips_a_silent_worker() -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a"))
    fleet.clock.jump(2)
    fleet.view.hear(beat("b"))
    fleet.clock.jump(1.5)
    assert [node_ids(fleet.open()) for _ in range(3)] == [["b"]] * 3


def test_missing_layers_are_named_half_open() -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a", status("a", "0:3")))
    with pytest.raises(LayersMissing, match="no ready worker holds layers 3:6 of 'heavyweight'"):
        fleet.open()


def test_layers_of_silent_workers_are_missing() -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a"))
    fleet.clock.jump(4)
    with pytest.raises(LayersMissing, match="layers 0:6 of"):
        fleet.open()


def test_ranges_that_do_not_join_are_named() -> None:
    fleet = make_fleet(uses_parts=False)
    fleet.view.hear(beat("a", status("a", "0:4"), status("a", "3:6")))
    with pytest.raises(RangesDoNotJoin, match="0:4 and 3:6"):
        fleet.open()


def test_a_model_on_its_way_says_how_far() -> None:
    fleet = make_fleet()
    loading, fetching = pb.ENGINE_STATE_LOADING, pb.ENGINE_STATE_FETCHING
    fleet.view.hear(beat("a", status("a", "0:3", state=loading, progress_percent=80)))
    fleet.view.hear(beat("b", status("b", "3:6", state=fetching, progress_percent=40)))
    with pytest.raises(ModelLoading, match="40% done"):
        fleet.open()


def test_unknown_model_names_the_known_ones() -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a"))
    with pytest.raises(UnknownModel, match="known: heavyweight"):
        fleet.planner.open(Request("req", "other"))


def test_a_router_that_just_started_does_not_deny_a_model() -> None:
    clock = FakeClock()
    view, admission = FleetView(clock), Admission(Bounds(1, 1), clock=clock)
    planner = make_planner(view, admission, clock, PlannerOptions())
    with pytest.raises(RouterStarting):
        planner.open(Request("req", MODEL))
    clock.jump(3)
    with pytest.raises(UnknownModel):
        planner.open(Request("req", MODEL))


def test_a_lost_stage_leads_to_another_pipeline_with_the_next_attempt() -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a"))
    fleet.view.hear(beat("b"))
    ticket = fleet.open()
    fleet.planner.stage_lost(ticket, 1, "a", "a-engine-0:6")
    assert node_ids(ticket) == ["b"]
    assert ticket.attempt == 2
    assert node_ids(fleet.open()) == ["b"]


def test_a_lost_stage_without_substitute_fails_the_ticket_and_frees_its_slot() -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a"))
    ticket = fleet.open()
    fleet.planner.stage_lost(ticket, 1, "a", "a-engine-0:6")
    assert isinstance(ticket.error, LayersMissing)
    assert fleet.admission.in_flight_count == 0


def test_a_lost_stage_is_missing_from_model_states_and_new_plans_at_once() -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a", status("a", "0:3")))
    fleet.view.hear(beat("b", status("b", "3:6")))
    fleet.planner.stage_lost(fleet.open(), 1, "b", "b-engine-3:6")
    (state,) = fleet.planner.model_states()
    assert (state.is_ready, state.missing) == (False, (range(3, 6),))
    with pytest.raises(LayersMissing, match="layers 3:6"):
        fleet.open()
    fleet.view.hear(beat("b", status("b", "3:6", incarnation="restarted"), sequence=2))
    (state,) = fleet.planner.model_states()
    assert state.is_ready


def test_an_engine_this_request_lost_stays_out_for_it_when_suspicion_ends() -> None:
    fleet = make_fleet(plan_wait_s=5)
    fleet.view.hear(beat("a"))
    ticket = fleet.open()
    fleet.planner.stage_lost(ticket, 1, "a", "a-engine-0:6")
    fleet.clock.jump(3)
    fleet.view.hear(beat("a", sequence=2))
    fleet.planner.refresh()
    assert ticket.pipeline is None
    assert node_ids(fleet.open()) == ["a"]
    fleet.clock.jump(2)
    fleet.view.hear(beat("a", sequence=3))
    fleet.planner.refresh()
    assert isinstance(ticket.error, NoOtherPipeline)


def test_a_repeated_report_of_an_old_attempt_changes_nothing() -> None:
    fleet = make_fleet()
    for node in "abc":
        fleet.view.hear(beat(node))
    ticket = fleet.open()
    fleet.planner.stage_lost(ticket, 1, "a", "a-engine-0:6")
    fleet.planner.stage_lost(ticket, 1, "a", "a-engine-0:6")
    assert ticket.attempt == 2


def test_a_report_of_a_stranger_is_an_invalid_request() -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a"))
    with pytest.raises(InvalidRequest, match="no stage on node 'z'"):
        fleet.planner.stage_lost(fleet.open(), 1, "z", "")


@pytest.mark.parametrize(
    ("arrives", "expected"),
    [(True, "plan"), (False, "error")],
)
def test_a_request_waits_for_missing_layers_as_long_as_it_may(arrives: bool, expected: str) -> None:
    fleet = make_fleet(plan_wait_s=2.0)
    fleet.view.hear(beat("a", status("a", "0:3")))
    ticket = fleet.open()
    fleet.clock.jump(1.9)
    if arrives:
        fleet.view.hear(beat("b", status("b", "3:6")))
    fleet.planner.refresh()
    assert ticket.error is None
    fleet.clock.jump(0.1)
    fleet.planner.refresh(force=True)
    assert ("plan" if ticket.pipeline else "error") == expected


def test_closing_serves_the_next_in_line() -> None:
    fleet = make_fleet(in_flight_max=1)
    fleet.view.hear(beat("a"))
    tickets = [fleet.open(f"req-{i}") for i in range(3)]
    fleet.planner.close(tickets[0])
    assert [bool(t.pipeline) for t in tickets] == [False, True, False]


def test_those_who_wait_are_told_when_the_fleet_dies() -> None:
    fleet = make_fleet(in_flight_max=1)
    fleet.view.hear(beat("a"))
    _, waiting = fleet.open(), fleet.open()
    fleet.clock.jump(3.5)
    fleet.planner.refresh()
    assert isinstance(waiting.error, LayersMissing)


def _restart(view: FleetView) -> None:
    view.hear(beat("a", status("a", incarnation="restarted"), sequence=2))


def _measure(view: FleetView) -> None:
    slower = status("a")
    slower.layer_time_us = 300
    view.hear(beat("a", slower, sequence=2))


@pytest.mark.parametrize(("change", "grows"), [(_restart, True), (_measure, False)])
def test_revision_grows_only_when_engines_are_replaced(
    change: Callable[[FleetView], None], grows: bool
) -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a"))
    (before,) = fleet.planner.pipelines(MODEL)
    change(fleet.view)
    fleet.planner.refresh(force=True)
    (after,) = fleet.planner.pipelines(MODEL)
    assert after.pipeline_id == before.pipeline_id
    assert (after.revision > before.revision) is grows


def test_model_states_tell_what_is_missing() -> None:
    fleet = make_fleet()
    fleet.view.hear(beat("a", status("a", "0:3")))
    (state,) = fleet.planner.model_states()
    assert (state.is_ready, state.missing, state.worker_count) == (False, (range(3, 6),), 1)
    fleet.view.hear(beat("b", status("b", "3:6")))
    (state,) = fleet.planner.model_states()
    assert (state.is_ready, state.missing, state.context_length) == (True, (), 512)
