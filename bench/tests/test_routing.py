"""What the comparison of routers rests on: bounds, shares and the fluid."""

import random
from collections import Counter

import pytest

from bench.routing import fluid, parallax, petals
from bench.routing.fleets import BATCHING, GIB, Path, RandomFleet, random_fleet
from bench.routing.ours import Ours
from bench.routing.shares import carried, flow_bound
from shoal_router.placement import Links, Machine, ModelShape, PlacedRange


def fleet_of(*layer_us: float, layer_count: int = 4) -> RandomFleet:
    """Machines m0, m1, ... of one region, with room for the whole model."""
    shape = ModelShape("m", layer_count, layer_bytes=GIB)
    machines = tuple(
        Machine(f"m{i}", locator="x", free_bytes=99 * GIB, layer_us=us)
        for i, us in enumerate(layer_us)
    )
    return RandomFleet(0, shape, machines, Links(visit_us=0.0, region_us=1000.0))


def test_what_is_carried_ends_at_the_busiest_machine() -> None:
    fleet = fleet_of(1000.0, 1000.0)
    halves = (PlacedRange("m0", 0, 2), PlacedRange("m1", 2, 4))
    assert carried(fleet, {halves: 1.0}) == pytest.approx(BATCHING * 500)
    alone = (PlacedRange("m0", 0, 4),)
    assert carried(fleet, {alone: 1.0}) == pytest.approx(BATCHING * 250)


def test_the_bound_parts_layers_where_no_pipeline_can() -> None:
    """Three machines hold [0, 4), [0, 4) and [2, 4): the third takes half of both others' work."""
    fleet = fleet_of(1000.0, 1000.0, 1000.0)
    ranges = [PlacedRange("m0", 0, 4), PlacedRange("m1", 0, 4), PlacedRange("m2", 2, 4)]
    assert flow_bound(fleet, ranges) == pytest.approx(BATCHING * 750)
    assert flow_bound(fleet, ranges[:2]) == pytest.approx(BATCHING * 500)


@pytest.mark.parametrize("seed", range(4))
def test_nobody_carries_more_than_the_bound(seed: int) -> None:
    fleet = random_fleet(seed)
    ours = Ours.placed(fleet)
    assert carried(fleet, ours.shares) <= flow_bound(fleet, ours.ranges) * (1 + 1e-6)
    ranges = parallax.placement(fleet)
    fixed = parallax.fixed_pipelines(fleet, ranges)
    if fixed:
        shares = parallax.by_strength(fleet, fixed)
        assert carried(fleet, shares) <= flow_bound(fleet, ranges) * (1 + 1e-6)


def test_fixed_pipelines_share_no_machine() -> None:
    for seed in range(6):
        fleet = random_fleet(seed)
        pipelines = parallax.fixed_pipelines(fleet, parallax.placement(fleet))
        used = Counter(placed.node_id for path in pipelines for placed in path)
        assert all(count == 1 for count in used.values()), f"seed {seed}"
        for path in pipelines:
            covered = [n for r in path for n in range(r.layer_start, r.layer_stop)]
            assert covered == list(range(fleet.shape.layer_count)), f"seed {seed}"


def test_a_client_of_petals_goes_round_a_full_server() -> None:
    fleet = fleet_of(1000.0, 2000.0)
    ranges = [PlacedRange("m0", 0, 4), PlacedRange("m1", 0, 4)]
    assert petals.quickest(fleet, ranges) == (PlacedRange("m0", 0, 4),)
    assert petals.quickest(fleet, ranges, frozenset({"m0"})) == (PlacedRange("m1", 0, 4),)


def test_a_full_fluid_carries_what_its_shares_allow() -> None:
    fleet = fleet_of(1000.0, 1000.0)
    halves: Path = (PlacedRange("m0", 0, 2), PlacedRange("m1", 2, 4))
    served = fluid.closed(fleet, lambda _: halves, 200, 300, random.Random(1))
    assert served.tokens_per_s == pytest.approx(carried(fleet, {halves: 1.0}), rel=0.01)


def test_an_idle_fluid_is_as_fast_as_its_path() -> None:
    fleet = fleet_of(1000.0, 1000.0)
    halves: Path = (PlacedRange("m0", 0, 2), PlacedRange("m1", 2, 4))
    served = fluid.open_loop(fleet, lambda _: halves, 0.001, 60, random.Random(1))
    assert served.step_us == pytest.approx(fleet.step_us(halves), rel=0.01)
