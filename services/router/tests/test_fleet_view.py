from __future__ import annotations

import pytest

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_common.testing import FakeClock
from shoal_router.fleet_view import BeatOutcome, FleetView
from shoal_router.testing import beat, status


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def view(clock: FakeClock) -> FleetView:
    return FleetView(clock, node_count_max=3)


def nodes(view: FleetView) -> list[str]:
    return [engine.node_id for engine in view.engines()]


def test_a_worker_joins_with_its_first_beat(view: FleetView) -> None:
    assert view.hear(beat("a")) is BeatOutcome.JOINED
    assert nodes(view) == ["a"]


def test_a_worker_silent_beyond_the_timeout_is_out(view: FleetView, clock: FakeClock) -> None:
    view.hear(beat("a"))
    clock.jump(3.0)
    assert nodes(view) == ["a"]
    clock.jump(0.01)
    assert nodes(view) == []
    assert view.models() == ("heavyweight",)


def test_a_silent_worker_is_back_with_its_next_beat(view: FleetView, clock: FakeClock) -> None:
    view.hear(beat("a"))
    clock.jump(10)
    version = view.version
    assert view.hear(beat("a", sequence=2)) is BeatOutcome.UPDATED
    assert nodes(view) == ["a"]
    assert view.version > version


@pytest.mark.parametrize("sequence", [4, 5])
def test_late_and_repeated_beats_are_ignored(
    view: FleetView, clock: FakeClock, sequence: int
) -> None:
    view.hear(beat("a", sequence=5))
    clock.jump(2.9)
    late = beat("a", status("a", "0:3"), sequence=sequence)
    assert view.hear(late) is BeatOutcome.LATE
    assert view.engines()[0].layer_stop == 6
    clock.jump(0.2)
    assert nodes(view) == []


def test_a_new_incarnation_replaces_the_old_one_for_good(view: FleetView) -> None:
    view.hear(beat("a", sequence=50))
    new = beat("a", status("a", "0:3", incarnation="new"), incarnation="agent-2")
    assert view.hear(new) is BeatOutcome.REJOINED
    assert view.hear(beat("a", sequence=51)) is BeatOutcome.LATE
    assert [e.incarnation for e in view.engines()] == ["new"]


def test_a_worker_that_leaves_is_out_at_once(view: FleetView) -> None:
    view.hear(beat("a"))
    assert view.hear(beat("a", sequence=3, is_leaving=True)) is BeatOutcome.LEFT
    assert nodes(view) == []
    assert view.hear(beat("a", sequence=2)) is BeatOutcome.LATE
    assert view.hear(beat("a", sequence=4)) is BeatOutcome.LATE
    assert nodes(view) == []


def test_a_node_that_left_may_come_again(view: FleetView) -> None:
    view.hear(beat("a", is_leaving=True))
    view.hear(beat("a", sequence=2, is_leaving=True))
    assert view.hear(beat("a", incarnation="agent-2")) in (BeatOutcome.JOINED, BeatOutcome.REJOINED)
    assert nodes(view) == ["a"]


@pytest.mark.parametrize(
    "state",
    [
        pb.ENGINE_STATE_UNSPECIFIED,
        pb.ENGINE_STATE_FETCHING,
        pb.ENGINE_STATE_LOADING,
        pb.ENGINE_STATE_DRAINING,
        pb.ENGINE_STATE_FAILED,
    ],
)
def test_only_ready_engines_are_offered(view: FleetView, state: pb.EngineState) -> None:
    view.hear(beat("a", status("a", state=state)))
    assert nodes(view) == []
    assert len(view.statuses("heavyweight")) == 1


def test_nodes_beyond_the_bound_are_refused(view: FleetView) -> None:
    for node in "abc":
        view.hear(beat(node))
    assert view.hear(beat("d")) is BeatOutcome.REFUSED
    assert sorted(nodes(view)) == ["a", "b", "c"]


def test_a_dead_node_makes_room_for_a_new_one(view: FleetView, clock: FakeClock) -> None:
    view.hear(beat("a"))
    clock.jump(4)
    view.hear(beat("b"))
    view.hear(beat("c"))
    assert view.hear(beat("d")) is BeatOutcome.JOINED
    assert sorted(nodes(view)) == ["b", "c", "d"]


def test_a_node_long_silent_is_forgotten(view: FleetView, clock: FakeClock) -> None:
    view.hear(beat("a"))
    clock.jump(61)
    assert nodes(view) == []
    assert view.models() == ()


def test_a_suspected_engine_is_out_until_a_later_beat_speaks_for_it(
    view: FleetView, clock: FakeClock
) -> None:
    view.hear(beat("a"))
    version = view.version
    view.suspect("a", "a-engine-0:6")
    assert nodes(view) == []
    assert view.version > version
    clock.jump(0.9)
    view.hear(beat("a", sequence=2))
    assert nodes(view) == [], "sent before the loss, perhaps"
    clock.jump(0.1)
    assert nodes(view) == [], "time alone proves nothing"
    version = view.version
    view.hear(beat("a", sequence=3))
    assert nodes(view) == ["a"]
    assert view.version > version


def test_a_suspected_engine_that_loads_is_suspected_until_it_is_ready(
    view: FleetView, clock: FakeClock
) -> None:
    view.hear(beat("a"))
    view.suspect("a", "a-engine-0:6")
    clock.jump(2)
    draining = status("a", state=pb.ENGINE_STATE_DRAINING)
    view.hear(beat("a", draining, sequence=2))
    assert nodes(view) == []
    view.hear(beat("a", sequence=3))
    assert nodes(view) == ["a"]


def test_suspicion_touches_one_engine_of_a_node(view: FleetView) -> None:
    view.hear(beat("a", status("a", "0:3"), status("a", "3:6")))
    view.suspect("a", "a-engine-0:3")
    assert [engine.layer_start for engine in view.engines()] == [3]


@pytest.mark.parametrize(("node_id", "incarnation"), [("z", "a-engine-0:6"), ("a", "of before")])
def test_an_engine_that_nobody_names_cannot_be_suspected(
    view: FleetView, node_id: str, incarnation: str
) -> None:
    view.hear(beat("a"))
    version = view.version
    view.suspect(node_id, incarnation)
    assert (nodes(view), view.version) == (["a"], version)


def test_a_restarted_engine_is_not_suspected(view: FleetView) -> None:
    view.hear(beat("a"))
    view.suspect("a", "a-engine-0:6")
    view.hear(beat("a", status("a", incarnation="restarted"), sequence=2))
    assert nodes(view) == ["a"]


def test_measured_times_alone_do_not_change_the_version(view: FleetView) -> None:
    view.hear(beat("a"))
    version = view.version
    slower = status("a")
    slower.layer_time_us = 900
    view.hear(beat("a", slower, sequence=2))
    assert view.version == version
    # An average over beats: one slow second moves it by a part.
    assert 100 < view.engines()[0].layer_time_us < 900
