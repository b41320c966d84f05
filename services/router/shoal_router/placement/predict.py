"""Owns: what a placement is predicted to do: tokens per second in all, time of one decode step.

Throughput counts steps of one token; batching multiplies it for every placement alike.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shoal_router.placement.machines import Links, Machine, PlacedRange
from shoal_router.placement.shape import ModelShape

_EXACTNESS = 1e-6
# Ways considered into an engine at each layer, and engines considered per layer, fastest first.
_HEADS_MAX = 6
_FAST_MAX = 24


def tokens_per_s(
    shape: ModelShape, machines: Mapping[str, Machine], ranges: Sequence[PlacedRange], links: Links
) -> float:
    """The most tokens per second that fit through every layer at once.

    Machines share their time freely between the layers that they hold: a stage may use a part of
    a range. 0 where a layer is not held.
    """
    supplies = _supplies(shape, machines, ranges, links)
    segments = _segments(shape, ranges)
    low, high = 0.0, sum(s.work_per_s for s in supplies) / shape.work_layers
    if high == 0 or _carries(high * (1 - _EXACTNESS), segments, supplies):
        return high
    while high - low > _EXACTNESS * high:
        middle = (low + high) / 2
        if _carries(middle, segments, supplies):
            low = middle
        else:
            high = middle
        if high < 1e-9:
            return 0.0
    return low


@dataclass(frozen=True, slots=True)
class _Supply:
    """One range's time: layers per second that it computes."""

    layer_start: int
    layer_stop: int
    work_per_s: float


def _supplies(
    shape: ModelShape, machines: Mapping[str, Machine], ranges: Sequence[PlacedRange], links: Links
) -> list[_Supply]:
    """In order of their start. Ranges of one machine share its time by their work."""
    held: Counter[str] = Counter()
    for each in ranges:
        held[each.node_id] += each.layer_stop - each.layer_start
    found = []
    for each in ranges:
        length = each.layer_stop - each.layer_start
        is_whole = length == shape.layer_count
        visit_us = 0.0 if is_whole else links.visit_us / length
        layer_us = machines[each.node_id].layer_us + visit_us
        share = length / held[each.node_id]
        found.append(_Supply(each.layer_start, each.layer_stop, share * 1e6 / layer_us))
    return sorted(found, key=lambda s: (s.layer_start, s.layer_stop))


def _segments(shape: ModelShape, ranges: Sequence[PlacedRange]) -> list[tuple[int, int, float]]:
    """(start, stop, work) between places where some range begins or ends."""
    cuts = {0, shape.layer_count}
    for each in ranges:
        cuts |= {each.layer_start, each.layer_stop}
    return [(start, stop, shape.work(start, stop)) for start, stop in pairwise(sorted(cuts))]


def _carries(
    flow: float, segments: Sequence[tuple[int, int, float]], supplies: Sequence[_Supply]
) -> bool:
    """Whether `flow` tokens per second get through: whoever ends first is used up first."""
    waiting = iter(supplies)
    upcoming = next(waiting, None)
    open_supplies: list[tuple[int, float]] = []
    for start, _, work in segments:
        while upcoming is not None and upcoming.layer_start <= start:
            heapq.heappush(open_supplies, (upcoming.layer_stop, upcoming.work_per_s))
            upcoming = next(waiting, None)
        needed = flow * work
        while needed > 0:
            if not open_supplies:
                return False
            stop, left = heapq.heappop(open_supplies)
            if stop <= start:
                continue
            if left > needed:
                heapq.heappush(open_supplies, (stop, left - needed))
            needed -= left
    return True


@dataclass(frozen=True, slots=True)
class _Way:
    """The fastest known way to have computed some layers, on the machine where it ends."""

    time_us: float
    first: Machine
    last: Machine


def step_us(
    shape: ModelShape, machines: Mapping[str, Machine], ranges: Sequence[PlacedRange], links: Links
) -> float:
    """Time of one token through the fastest way over the ranges and back; infinite without one."""
    ways: dict[str, _Way] = {}
    for start, stop, work in _segments(shape, ranges):
        active = _fastest(machines, ranges, start, stop)
        ways = _through(shape, ways, active, work, links, is_first=start == 0)
    times = [way.time_us + _back_us(way, links) for way in ways.values()]
    # A way that left a machine to be quicker may lose by the way back.
    times += [
        machines[each.node_id].layer_us * shape.work_layers
        for each in ranges
        if each.layer_stop - each.layer_start == shape.layer_count
    ]
    return min(times, default=float("inf"))


def _back_us(way: _Way, links: Links) -> float:
    """Token ids are so small that only the distance counts."""
    return links.hop_us(way.last, way.first, 0)


def _fastest(
    machines: Mapping[str, Machine], ranges: Sequence[PlacedRange], start: int, stop: int
) -> list[Machine]:
    active = {
        each.node_id for each in ranges if each.layer_start <= start and stop <= each.layer_stop
    }
    found = [machines[node_id] for node_id in active]
    return heapq.nsmallest(_FAST_MAX, found, key=lambda m: (m.layer_us, m.node_id))


def _through(
    shape: ModelShape,
    ways: Mapping[str, _Way],
    active: Sequence[Machine],
    work: float,
    links: Links,
    *,
    is_first: bool,
) -> dict[str, _Way]:
    """Every way, one segment further."""
    if is_first:
        return {m.node_id: _Way(links.visit_us + m.layer_us * work, m, m) for m in active}
    heads = heapq.nsmallest(
        _HEADS_MAX, ways.values(), key=lambda way: (way.time_us, way.last.node_id)
    )
    found: dict[str, _Way] = {}
    for machine in active:
        own = ways.get(machine.node_id)
        options = [own] if own else []
        options += heads
        best: _Way | None = None
        for way in options:
            hop_us = links.hop_us(way.last, machine, shape.token_bytes)
            if way is not own:
                hop_us += links.visit_us
            time_us = way.time_us + hop_us + machine.layer_us * work
            if best is None or time_us < best.time_us:
                best = _Way(time_us, way.first, machine)
        if best is not None:
            found[machine.node_id] = best
    return found
