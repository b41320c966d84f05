"""What placement is told of workers, models and links, case by case."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_common.testing import FakeClock
from shoal_router.announcements import Announcements
from shoal_router.fleet_view import FleetView
from shoal_router.offers import OfferOptions, Offers
from shoal_router.orders import LoadOrder, Orders
from shoal_router.placement import Goal, Held, Machine, ModelShape, PlacedRange
from shoal_router.testing import GIB, MIB, MODEL, FakeAgents, announcement, beat, status

OTHER = "other"


class Fixture:
    """Offers over a view that was told some beats."""

    def __init__(self, *beats: pb.WorkerBeat, announced: dict[str, Any] | None = None) -> None:
        clock = FakeClock()
        self.view = FleetView(clock)
        self.orders = Orders(FakeAgents(), clock)
        announcements = Announcements(clock, timeout_s=7.0)
        if announced is not None:
            announcements.hear(announcement(**announced))
        self.offers = Offers(self.view, announcements, self.orders, OfferOptions())
        for each in beats:
            self.view.hear(each)

    def shape(self) -> ModelShape:
        found = self.offers.shape(MODEL)
        assert found is not None
        return found

    def machines(self) -> dict[str, Machine]:
        return {m.node_id: m for m in self.offers.machines(MODEL, self.shape())}


def test_a_model_is_what_its_shard_store_announces() -> None:
    announced = {
        "layer_bytes": 7, "embed_bytes": 3, "head_bytes": 2, "width": 8, "kv_width": 4,
        "weight_bytes": 40, "parameter_count": 20, "ties_embeddings": True,
    }  # fmt: skip
    assert Fixture(announced=announced).shape() == ModelShape(
        MODEL, 6, 7, 3, 2, True, 40, 20, 4 * 4 * 2048, 256 * MIB, 32
    )


def test_a_store_that_names_no_layers_means_even_ones() -> None:
    assert Fixture(announced={}).shape().layer_bytes == GIB // 6


def test_a_model_that_is_only_held_has_a_shape_and_an_unknown_one_has_none() -> None:
    held = status("a", "0:3")
    held.weight_bytes = 30
    found = Fixture(beat("a", held))
    assert (found.shape().layer_count, found.shape().layer_bytes) == (6, 10)
    assert found.offers.shape("nobody's") is None
    assert found.offers.placements("nobody's") is None


@pytest.mark.parametrize(
    ("engine", "idle_bytes"),
    [
        pytest.param({"weight_bytes": 7}, 7, id="idle"),
        pytest.param({"weight_bytes": 7, "memory_bytes": 9}, 9, id="as measured"),
        pytest.param({"weight_bytes": 7, "is_pinned": True}, 0, id="pinned"),
        pytest.param({"weight_bytes": 7, "running_count": 1}, 0, id="running"),
        pytest.param({"weight_bytes": 7, "waiting_count": 1}, 0, id="waiting"),
        pytest.param({"weight_bytes": 7, "state": pb.ENGINE_STATE_LOADING}, 0, id="loading"),
    ],
)
def test_what_idle_engines_would_free(engine: dict[str, int], idle_bytes: int) -> None:
    said = status("a", model=OTHER)
    said.MergeFrom(pb.EngineStatus(**engine))  # type: ignore[arg-type]
    machine = Fixture(beat("a", said, free_bytes=50), announced={}).machines()["a"]
    assert (machine.free_bytes, machine.idle_bytes) == (50, idle_bytes)


def test_memory_that_was_promised_is_not_free() -> None:
    found = Fixture(beat("a", is_empty=True, free_bytes=50), announced={})
    found.orders.adopt(LoadOrder(OTHER, PlacedRange("a", 0, 6), 6, promised_bytes=60))
    assert found.machines()["a"].free_bytes == 0


def test_a_cap_on_memory_counts_what_engines_take_already() -> None:
    said = status("a", model=OTHER)
    said.memory_bytes = 30
    capped = beat("a", said, free_bytes=500)
    capped.memory_max_bytes = 100
    assert Fixture(capped, announced={}).machines()["a"].free_bytes == 70


@pytest.mark.parametrize(
    ("change", "is_fixed"),
    [
        pytest.param({}, False, id="takes orders"),
        pytest.param({"agent_locator": ""}, True, id="cannot be spoken to"),
        pytest.param({"is_locked": True}, True, id="locked"),
    ],
)
def test_which_workers_are_left_alone(change: dict[str, Any], is_fixed: bool) -> None:
    said = beat("a", is_empty=True, free_bytes=50)
    for name, value in change.items():
        setattr(said, name, value)
    assert Fixture(said, announced={}).machines()["a"].is_fixed == is_fixed


@pytest.mark.parametrize(
    ("engine", "held", "is_fixed"),
    [
        pytest.param(("0:3", "READY", False), Held(0, 3, 5), False, id="ready"),
        pytest.param(("3:6", "LOADING", False), Held(3, 6, 5, is_ready=False), False, id="coming"),
        pytest.param(("0:0", "FETCHING", False), Held(0, 6, 5, is_ready=False), False, id="whole"),
        pytest.param(("0:3", "READY", True), Held(0, 3, 5, is_pinned=True), True, id="pinned"),
        pytest.param(("0:3", "DRAINING", False), None, False, id="on its way out"),
        pytest.param(("0:3", "FAILED", False), None, False, id="failed"),
        pytest.param(("0:3", "FAILED", True), None, True, id="a pin that failed"),
    ],
)
def test_what_a_worker_holds(
    engine: tuple[str, str, bool], held: Held | None, is_fixed: bool
) -> None:
    layers, state, is_pinned = engine
    said = status("a", layers, state=pb.EngineState.Value(f"ENGINE_STATE_{state}"))
    said.is_pinned, said.memory_bytes = is_pinned, 5
    machine = Fixture(beat("a", said), announced={}).machines()["a"]
    assert machine.held == ((held,) if held else ())
    assert machine.is_fixed == is_fixed


def test_layers_that_were_ordered_count_as_held_before_the_worker_says_so() -> None:
    found = Fixture(beat("a", is_empty=True), announced={})
    found.orders.adopt(LoadOrder(MODEL, PlacedRange("a", 0, 3), 6, promised_bytes=0))
    assert found.machines()["a"].held == (Held(0, 3, is_ready=False),)


def test_measured_times_come_before_what_the_machine_does_with_other_models() -> None:
    mine, others = status("a"), status("b", model=OTHER)
    mine.layer_time_us, mine.weight_bytes = 1000, 6000
    others.layer_time_us, others.weight_bytes = 500, 6 * GIB
    found = Fixture(
        beat("a", mine), beat("b", others), beat("c", is_empty=True), announced={}
    ).machines()
    assert found["a"].is_measured
    assert 900 < found["a"].layer_us < 1100
    assert not found["b"].is_measured
    assert found["b"].layer_us < found["c"].layer_us


def test_an_accelerator_is_expected_to_be_faster_and_many_cores_than_few() -> None:
    beats = {name: beat(name, is_empty=True) for name in ("gpu", "many", "few")}
    beats["gpu"].device, beats["many"].core_count, beats["few"].core_count = "cuda", 8, 2
    found = Fixture(*beats.values(), announced={}).machines()
    assert found["gpu"].layer_us < found["many"].layer_us < found["few"].layer_us


def test_measured_links_are_handed_on() -> None:
    said = beat("a", is_empty=True)
    said.links.append(pb.LinkTime(node_id="b", rtt_us=700, bytes_per_s=9))
    links = Fixture(said, beat("b", is_empty=True), announced={}).offers.links()
    a, b = Machine("a"), Machine("b", region="far away")
    assert links.hop_us(a, b, 0) == links.hop_us(b, a, 0) == 350


def test_people_are_shown_every_way_with_its_reason() -> None:
    found = Fixture(
        beat("a", is_empty=True, free_bytes=8 * GIB),
        beat("b", is_empty=True, free_bytes=GIB),
        announced={},
    )
    shown = found.offers.placements(MODEL)
    assert shown is not None
    assert shown.goal is Goal.ONE_WAY
    assert shown.chosen is not None
    assert shown.chosen.name == "a alone"
    assert all(candidate.reason for candidate in shown.candidates)
    complete = Fixture(beat("a"), announced={}).offers.placements(MODEL)
    assert complete is not None
    assert complete.goal is Goal.SPREAD
