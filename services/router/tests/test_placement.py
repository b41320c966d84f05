"""Where a model's layers go: case by case, and on random fleets what must hold of all of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_router.placement import (
    Fit,
    Goal,
    Links,
    Machine,
    PlacedRange,
    Placements,
    gaps,
    place,
)

from .sites import fleet, held, machine, memory_overdrawn, placed, real_shape, shape

SEEDS = st.integers(min_value=0, max_value=2**32)
SIZES = st.integers(min_value=1, max_value=14)
RATIO_MIN = 0.98


def chosen_of(machines: list[Machine], goal: Goal = Goal.ONE_WAY, **more: Any) -> set[PlacedRange]:
    found = place(shape(), machines, Links(visit_us=0), goal, **more).chosen
    return set(found.ranges) if found else set()


@pytest.mark.parametrize(
    ("machines", "chosen"),
    [
        pytest.param([], "", id="no machine"),
        pytest.param([machine("a", 6), machine("b", 5)], "", id="not enough memory in all"),
        pytest.param([machine("a"), machine("b", 14)], "b@0:12", id="most memory of equals"),
        pytest.param([machine("b"), machine("a")], "a@0:12", id="equal: by name"),
        pytest.param([machine("a", 20), machine("b", 12, 500)], "b@0:12", id="faster"),
        pytest.param([machine("a"), machine("b", 6, 980)], "a@0:12", id="one machine if as fast"),
        pytest.param(
            [machine("a", 12, 5000), machine("b", 6), machine("c", 6)],
            "b@0:6 c@6:12",
            id="a slow machine alone loses to two fast ones",
        ),
        pytest.param(
            [machine("a", 12, 1100), machine("b", 6), machine("c", 6)],
            "a@0:12",
            id="hops cost more than they win",
        ),
        pytest.param([machine("a", 8), machine("b", 8)], "a@0:6 b@6:12", id="equal halves"),
        pytest.param(
            [machine("a", 11, 500), machine("b", 11, 1000)], "a@0:8 b@8:12", id="dealt by speed"
        ),
        pytest.param(
            [machine("a", 5, 500), machine("b", 11, 1000)], "a@0:5 b@5:12", id="memory is the cap"
        ),
        pytest.param(
            [machine("a", 7), machine("b", 7), machine("c", 7, 9000)],
            "a@0:6 b@6:12",
            id="a weak machine is left out",
        ),
        pytest.param(
            [machine("a", 7, region="x"), machine("b", 7, region="x"), machine("c", 11, 500, "y")],
            "a@0:6 b@6:12",
            id="a region that suffices is not left",
        ),
        pytest.param(
            [machine("a", 7, region="x"), machine("b", 7, region="y")],
            "a@0:6 b@6:12",
            id="regions join where none suffices",
        ),
        pytest.param(
            [machine("a", 0, idle_bytes=1200), machine("b", 12, 1400)],
            "b@0:12",
            id="idle models stay",
        ),
        pytest.param(
            [machine("a", 0, idle_bytes=1200), machine("b", 12, 9000)],
            "a@0:12",
            id="idle models leave for much more speed",
        ),
        pytest.param([machine("a", is_locked=True)], "", id="locked"),
        pytest.param([machine("a", locator="")], "", id="takes no orders"),
        pytest.param(
            [machine("a", 4, held=held("0:4")), machine("b", 8)],
            "a@0:4 b@4:12",
            id="what is held is completed",
        ),
        pytest.param(
            [machine("a", 20, held=held("0:4", is_pinned=True)), machine("b", 8)],
            "a@0:4 b@4:12",
            id="who has a pin takes nothing more",
        ),
        pytest.param(
            [machine("a", 0, held=held("4:8")), machine("b", 4), machine("c", 4)],
            "b@0:4 a@4:8 c@8:12",
            id="gaps on both sides",
        ),
        pytest.param(
            [machine("a", held=held("0:12")), machine("b", 12, 1)],
            "a@0:12",
            id="what is complete stays",
        ),
    ],
)
def test_one_way(machines: list[Machine], chosen: str) -> None:
    assert chosen_of(machines) == placed(chosen)


@pytest.mark.parametrize(
    ("machines", "avoid", "chosen"),
    [
        pytest.param([machine("a", 20), machine("b")], "a", "b@0:12", id="others first"),
        pytest.param([machine("a", 20), machine("b", 5)], "a", "a@0:12", id="if there are any"),
        pytest.param(
            [machine("a", 20), machine("b", 6), machine("c", 6)], "a", "b@0:6 c@6:12", id="several"
        ),
    ],
)
def test_nodes_to_avoid(machines: list[Machine], avoid: str, chosen: str) -> None:
    assert chosen_of(machines, avoid=[avoid]) == placed(chosen)


@pytest.mark.parametrize(
    ("machines", "chosen"),
    [
        pytest.param([machine("a"), machine("b")], "a@0:12 b@0:12", id="whole models first"),
        pytest.param(
            [machine("a"), machine("b", 6), machine("c", 6)],
            "a@0:12 b@0:6 c@6:12",
            id="the others form a pipeline",
        ),
        pytest.param([machine("a"), machine("b", 12, 90_000)], "a@0:12", id="weak ones stay out"),
        pytest.param(
            [machine("a", 0, held=held("0:12", is_pinned=True)), machine("b", 7)],
            "a@0:12 b@0:7",
            id="pins stay and are thickened",
        ),
        pytest.param(
            [machine("a", 0, held=held("0:6")), machine("b", 0, held=held("6:12"))],
            "a@0:6 b@6:12",
            id="as good as it gets: nothing moves",
        ),
        pytest.param(
            [
                machine("a", 0, held=held("0:6")),
                machine("b", 0, held=held("6:12")),
                machine("c", 0, held=held("6:12")),
                machine("d", 6),
            ],
            "a@0:6 b@6:12 c@6:12 d@0:6",
            id="the thinnest layers are thickened",
        ),
        pytest.param(
            [
                machine("a", 12, region="x"),
                machine("b", 12, region="y"),
                machine("c", 6, 1000, "y"),
            ],
            "a@0:12 b@0:12 c@0:6",
            id="every region that can serves on its own",
        ),
        pytest.param(
            [machine("a", 12, region="x"), machine("b", 6, 1000, "y")],
            "a@0:12",
            id="a region that cannot serve stays out",
        ),
    ],
)
def test_spread(machines: list[Machine], chosen: str) -> None:
    assert chosen_of(machines, Goal.SPREAD) == placed(chosen)


def test_a_measured_slow_link_inside_a_region_is_avoided() -> None:
    machines = [machine("a", 6), machine("b", 6), machine("c", 6), machine("d", 6)]
    rtt_us = {("a", "b"): 900_000.0, ("b", "c"): 900_000.0, ("b", "d"): 900_000.0}
    found = place(shape(18), machines, Links(rtt_us), Goal.ONE_WAY).chosen
    assert found is not None
    assert found.node_ids == ("a", "c", "d")


def test_the_last_stage_of_tied_embeddings_has_room_for_them() -> None:
    model = shape(4, embed_bytes=300, ties_embeddings=True)
    machines = [machine("a", 5), machine("b", 5)]
    found = place(model, machines, Links(), Goal.ONE_WAY).chosen
    assert found is not None
    assert set(found.ranges) == placed("a@0:2 b@2:4")
    assert place(model, [machine("a", 5), machine("b", 4)], Links(), Goal.ONE_WAY).chosen is None


def test_the_head_counts_as_work_of_the_last_stage() -> None:
    model = shape(12, head_bytes=400)
    machines = [machine("a", 15), machine("b", 15)]
    found = place(model, machines, Links(visit_us=0), Goal.ONE_WAY).chosen
    assert found is not None
    assert set(found.ranges) == placed("a@0:8 b@8:12")
    assert found.tokens_per_s == pytest.approx(1e6 / 8000, rel=0.01)


def test_a_number_format_that_takes_less_is_the_last_resort() -> None:
    model = shape(12, least_bytes=600)
    alone = place(model, [machine("a", 6)], Links(), Goal.ONE_WAY).chosen
    assert alone is not None
    assert alone.fit is Fit.LEAST
    both = place(model, [machine("a", 6), machine("b", 6)], Links(), Goal.ONE_WAY).chosen
    assert both is not None
    assert (both.fit, set(both.ranges)) == (Fit.BESIDE, placed("a@0:6 b@6:12"))


def test_every_candidate_says_why_it_won_or_lost() -> None:
    machines = [machine("a", 12, 5000), machine("b", 6), machine("c", 6), machine("d", 12, 6000)]
    for goal in Goal:
        found = place(shape(), machines, Links(), goal)
        assert len(found.candidates) > 2
        assert [c.is_chosen for c in found.candidates] == [True] + [False] * (
            len(found.candidates) - 1
        )
        assert all(c.reason for c in found.candidates)
    reasons = {c.name: c.reason for c in place(shape(), machines, Links(), Goal.ONE_WAY).candidates}
    assert reasons["a alone"] == "60 ms a step against 14.1 ms"


def both_goals(seed: int, count: int, regions: int) -> list[tuple[list[Machine], Placements]]:
    machines = fleet(seed, count, regions)
    return [(machines, place(real_shape(), machines, Links(), goal)) for goal in Goal]


@settings(max_examples=40, deadline=None)
@given(SEEDS, SIZES, st.integers(1, 3))
def test_no_placement_overdraws_memory_or_touches_what_is_fixed(
    seed: int, count: int, regions: int
) -> None:
    for machines, found in both_goals(seed, count, regions):
        by_id = {m.node_id: m for m in machines}
        for candidate in found.candidates:
            overdrawn = memory_overdrawn(
                real_shape(),
                machines,
                candidate.ranges if candidate.move_bytes else (),
                candidate.fit,
                reuses_held=found.goal is Goal.SPREAD,
            )
            assert not overdrawn, candidate
            for each in candidate.ranges:
                owner = by_id[each.node_id]
                held_now = {(h.layer_start, h.layer_stop) for h in owner.held}
                if owner.is_fixed:
                    assert (each.layer_start, each.layer_stop) in held_now, candidate


@settings(max_examples=40, deadline=None)
@given(SEEDS, SIZES, st.integers(1, 3))
def test_what_is_chosen_covers_every_layer_and_is_as_good_as_the_best_machine(
    seed: int, count: int, regions: int
) -> None:
    for _, found in both_goals(seed, count, regions):
        best = found.chosen
        if best is None:
            assert not any(c.covers for c in found.candidates)
            continue
        assert not gaps(best.ranges, real_shape().layer_count)
        assert best.tokens_per_s > 0
        if found.goal is Goal.SPREAD:
            assert best.step_us * RATIO_MIN <= found.best_single_step_us
            assert best.tokens_per_s >= RATIO_MIN * 1e6 / found.best_single_step_us


@settings(max_examples=25, deadline=None)
@given(SEEDS, SIZES)
def test_on_an_empty_fleet_one_way_is_never_slower_than_the_best_machine(
    seed: int, count: int
) -> None:
    machines = [
        machine(m.node_id, region=m.region, free_bytes=m.free_bytes, layer_us=m.layer_us)
        for m in fleet(seed, count, regions=2)
    ]
    found = place(real_shape(), machines, Links(), Goal.ONE_WAY)
    if found.chosen is not None and found.chosen.fit is not Fit.LEAST:
        assert found.chosen.step_us * RATIO_MIN <= found.best_single_step_us
        assert found.chosen.tokens_per_s >= RATIO_MIN * 1e6 / found.best_single_step_us


@settings(max_examples=25, deadline=None)
@given(SEEDS, SIZES)
def test_the_order_of_machines_does_not_matter(seed: int, count: int) -> None:
    machines = fleet(seed, count, regions=2)
    shuffled = random.Random(seed).sample(machines, count)
    for goal in Goal:
        assert place(real_shape(), machines, Links(), goal) == place(
            real_shape(), shuffled, Links(), goal
        )


@settings(max_examples=25, deadline=None)
@given(SEEDS, SIZES)
def test_a_far_worker_is_not_used_where_its_peers_suffice(seed: int, count: int) -> None:
    near = [
        machine(m.node_id, region="near", free_bytes=m.free_bytes, layer_us=m.layer_us)
        for m in fleet(seed, count)
    ]
    far = machine("far", region="far", free_bytes=int(5e9), layer_us=100)
    assert real_shape().memory_bytes(0, 32) > far.free_bytes
    for goal in Goal:
        with_far = place(real_shape(), [*near, far], Links(), goal).chosen
        alone = place(real_shape(), near, Links(), goal).chosen
        if alone is not None and alone.fit is Fit.BESIDE:
            assert with_far is not None
            assert "far" not in with_far.node_ids


@pytest.mark.parametrize(("count", "layer_count"), [(32, 32), (1000, 48)])
def test_large_fleets_are_placed(count: int, layer_count: int) -> None:
    machines = fleet(count, count, regions=4, layer_count=layer_count)
    for goal in Goal:
        found = place(real_shape(layer_count), machines, Links(), goal)
        assert found.chosen is not None
    strength = sum(1e6 / m.layer_us for m in machines) / real_shape(layer_count).work_layers
    assert found.chosen.tokens_per_s > 0.8 * strength
