"""The flow on random fleets: what pipelines promise, whatever the machines."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise

import pytest

from shoal_router.flow import Fleet, FlowOptions, pipelines_of
from shoal_router.pipeline import Costs, Engine, Pipeline, missing_ranges
from shoal_router.testing import engine

SEEDS = range(16)
LAYER_COUNT = 12


def fleet(seed: int, *, whole_share: float = 0.2) -> list[Engine]:
    rng = random.Random(seed)
    engines = []
    for index in range(rng.randint(2, 11)):
        start, stop = 0, LAYER_COUNT
        if rng.random() >= whole_share:
            size = rng.randint(2, 9)
            start = rng.randint(0, LAYER_COUNT - size)
            stop = start + size
        engines.append(
            engine(
                f"n{index}",
                f"{start}:{stop}",
                layer_time_us=round(1000 * rng.lognormvariate(0, 0.7)),
                layer_count=LAYER_COUNT,
                running_max=rng.choice((0, 0, 2, 16)),
                block_size_tokens=rng.choice((16, 16, 16, 32)),
                region=rng.choice(("", "home", "away")),
            )
        )
    return engines


def found(engines: list[Engine], **options: object) -> tuple[Pipeline, ...]:
    return pipelines_of(Fleet(engines), FlowOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("uses_parts", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_stages_cover_the_model_within_what_engines_hold(seed: int, uses_parts: bool) -> None:
    engines = fleet(seed)
    held = {e.incarnation: e for e in engines}
    for pipeline in found(engines, uses_parts=uses_parts):
        position = 0
        for stage in pipeline.stages:
            whole = held[stage.incarnation]
            assert stage.layer_start == position < stage.layer_stop
            assert whole.holds(stage)
            assert uses_parts or whole == stage
            position = stage.layer_stop
        assert position == LAYER_COUNT
        assert len({s.block_size_tokens for s in pipeline.stages}) == 1
        assert len(set(pipeline.incarnations)) == len(pipeline.stages)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_engine_carries_more_than_its_time_or_its_places(seed: int) -> None:
    busy: defaultdict[str, float] = defaultdict(float)
    running: defaultdict[str, float] = defaultdict(float)
    engines = fleet(seed)
    pipelines = found(engines)
    for pipeline in pipelines:
        for stage in pipeline.stages:
            steps_per_us = pipeline.steps_per_s * 1e-6
            busy[stage.incarnation] += steps_per_us * stage.size * stage.layer_time_us
            running[stage.incarnation] += steps_per_us * pipeline.time_us
    assert all(share <= 1 + 1e-6 for share in busy.values())
    for each in engines:
        assert not each.running_max or running[each.incarnation] <= each.running_max + 1e-6
    if pipelines:
        assert sum(p.weight for p in pipelines) == pytest.approx(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_single_machine_is_among_them_and_all_are_not_worse_than_it(seed: int) -> None:
    engines = fleet(seed, whole_share=0.4)
    whole = [e for e in engines if e.is_whole]
    pipelines = found(engines)
    if not whole:
        return
    best = min(whole, key=lambda e: e.layer_time_us)
    alone = next(p for p in pipelines if p.stages == (best,))
    assert alone.time_us == best.layer_time_us * LAYER_COUNT
    assert min(p.time_us for p in pipelines) <= alone.time_us
    assert sum(p.steps_per_s for p in pipelines) * alone.time_us >= 0.98e6


@pytest.mark.parametrize("seed", SEEDS)
def test_a_chain_that_overlaps_serves_until_one_of_it_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    cuts = sorted(rng.sample(range(1, LAYER_COUNT), 3))
    bounds = [0, *cuts, LAYER_COUNT]
    chain = [
        engine(
            f"n{index}",
            f"{max(0, start - rng.randint(0, 1))}:{stop}",
            layer_count=LAYER_COUNT,
        )
        for index, (start, stop) in enumerate(pairwise(bounds))
    ]
    assert found(chain)
    lost = rng.randrange(len(chain))
    without = [e for index, e in enumerate(chain) if index != lost]
    held = [range(e.layer_start, e.layer_stop) for e in without]
    assert bool(found(without)) is not bool(missing_ranges(held, LAYER_COUNT))


@pytest.mark.parametrize("count_max", [1, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_more_pipelines_than_allowed(seed: int, count_max: int) -> None:
    assert len(found(fleet(seed), count_max=count_max)) <= max(count_max, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_engines_changes_nothing(seed: int) -> None:
    engines = fleet(seed)
    mixed = list(engines)
    random.Random(seed).shuffle(mixed)
    assert found(engines) == found(mixed)


@pytest.mark.parametrize("seed", SEEDS)
def test_times_that_wander_a_little_move_no_pipeline(seed: int) -> None:
    rng = random.Random(seed)
    engines = fleet(seed)
    running = found(engines)
    wandered = [
        engine(
            e.node_id,
            f"{e.layer_start}:{e.layer_stop}",
            layer_time_us=max(1, round(e.layer_time_us * rng.uniform(0.97, 1.03))),
            layer_count=LAYER_COUNT,
            running_max=e.running_max,
            block_size_tokens=e.block_size_tokens,
            region=e.region,
        )
        for e in engines
    ]
    now = pipelines_of(Fleet(wandered), FlowOptions(), running)
    carried = sum(p.weight for p in now if p.parts in {old.parts for old in running})
    assert not running or carried >= 0.9


def test_an_engine_may_serve_several_pipelines() -> None:
    """The fast one in front carries what two slow ones behind it can take."""
    fast = engine("fast", "0:3", layer_time_us=100_000)
    slow = [engine(name, "3:6", layer_time_us=200_000) for name in ("left", "right")]
    pipelines = found([fast, *slow])
    assert [[s.node_id for s in p.stages] for p in pipelines] == [
        ["fast", "left"],
        ["fast", "right"],
    ]
    assert [p.weight for p in pipelines] == pytest.approx([0.5, 0.5], rel=0.01)


def test_ranges_that_overlap_unevenly_carry_all_that_the_machines_can() -> None:
    engines = [engine(n, r, layer_time_us=100_000) for n, r in (("a", "0:4"), ("b", "1:6"))]
    carried = sum(p.steps_per_s for p in found(engines))
    # Two machines of 0.1 s a layer, six layers: 3.33 steps a second when both are always busy.
    assert carried == pytest.approx(2 / 0.6, rel=0.01)


def test_a_region_that_serves_alone_is_not_left_for_a_slightly_faster_machine_far_away() -> None:
    near = [engine("a", "0:3", region="home"), engine("b", "3:6", region="home")]
    far = engine("z", "3:6", layer_time_us=90, region="away")
    first = found([*near, far])[0]
    assert [s.node_id for s in first.stages] == ["a", "b"]


def test_a_measured_link_decides_between_equal_machines() -> None:
    engines = [engine("a", "0:3"), engine("b", "3:6"), engine("c", "3:6")]

    def rtt_us(source: str, target: str) -> int:
        return 400 if "c" in (source, target) else 40_000

    (first, *_) = pipelines_of(Fleet(engines, rtt_us), FlowOptions(costs=Costs()))
    assert [s.node_id for s in first.stages] == ["a", "c"]
    # Without the times that nobody measured: 400 us there and back instead of 40 ms.
    assert 600 + 400 <= first.time_us < 2000
