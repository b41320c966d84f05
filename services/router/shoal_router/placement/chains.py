"""Owns: one way over a gap of layers: which machines, in which order, how many layers each.

Fast machines with room are chosen before slow ones; inside a chain layers are dealt out so that
every machine takes equally long, as far as its memory goes.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shoal_router.placement.machines import Links, Machine, PlacedRange
from shoal_router.placement.room import Room
from shoal_router.placement.shape import ModelShape

# Limits of speed that are tried: machines slower than one are left out.
_THRESHOLDS_MAX = 8
# Machines added to a choice whose ends have no room for embedding or head.
_EXTRA_MAX = 2
_STAGES_MAX = 64
# Machines that are looked at from so many of their own, where links were measured.
_NEIGHBOURS_MAX = 64
_SEEDS_MAX = 8


@dataclass(frozen=True, slots=True)
class Chain:
    """Machines end to end over [gap start, gap stop). step_us: the way back included."""

    placed: tuple[tuple[Machine, PlacedRange], ...]
    step_us: float

    @property
    def machines(self) -> tuple[Machine, ...]:
        return tuple(machine for machine, _ in self.placed)

    @property
    def ranges(self) -> tuple[PlacedRange, ...]:
        return tuple(each for _, each in self.placed)


def deal(
    costs_us: Sequence[float], extras_us: Sequence[float], limits: Sequence[int], count: int
) -> list[int] | None:
    """Deals `count` layers to machines, at least one each, so that the slowest is fastest.

    costs_us: per layer; extras_us: besides; limits: layers at most. None where they have no room.
    Giving the next layer to whoever would be done first is optimal for the slowest of them.
    """
    if not costs_us or count < len(costs_us) or min(limits) < 1 or sum(limits) < count:
        return None
    lengths = [1] * len(costs_us)
    done = [
        (2 * cost + extra, index)
        for index, (cost, extra) in enumerate(zip(costs_us, extras_us, strict=True))
        if limits[index] > 1
    ]
    heapq.heapify(done)
    for _ in range(count - len(costs_us)):
        time_us, index = heapq.heappop(done)
        lengths[index] += 1
        if lengths[index] < limits[index]:
            heapq.heappush(done, (time_us + costs_us[index], index))
    return lengths


def best_chain(
    shape: ModelShape,
    machines: Sequence[Machine],
    links: Links,
    room: Room,
    gap: range,
    *,
    slack: float = 1.0,
    rank: Mapping[str, int] | None = None,
) -> Chain | None:
    """The chain with the shortest step over a gap, of those that are tried; None without room.

    slack: how much more room than needed a chain's machines have, so that dealing by speed is
    free. rank: regions with a lower one are used up first.
    """
    limits = {m.node_id: room.layers_max(m, is_first=False, is_last=False) for m in machines}
    ranks = rank or {}
    able = sorted(
        (m for m in machines if limits[m.node_id] > 0),
        key=lambda m: (ranks.get(m.region, 0), -limits[m.node_id], m.layer_us, m.node_id),
    )
    pools = [
        [m for m in able if m.layer_us <= threshold_us]
        for threshold_us in _thresholds([m.layer_us for m in able])
    ]
    if links.rtt_us and len(able) <= _NEIGHBOURS_MAX:
        pools += _neighbourhoods(able, links, ranks)
    found: list[Chain] = []
    for pool in pools:
        chosen = _until(pool, limits, len(gap) * slack)
        for extra in range(_EXTRA_MAX + 1):
            members = pool[: len(chosen) + extra]
            if not chosen or len(members) < len(chosen) + extra:
                break
            chain = chain_of(shape, members, links, room, gap)
            if chain is not None:
                found.append(chain)
                break
    return min(found, key=lambda c: (c.step_us, len(c.placed)), default=None)


def _neighbourhoods(
    able: Sequence[Machine], links: Links, ranks: Mapping[str, int]
) -> list[list[Machine]]:
    """The machines as seen from some of them, the nearest first: where links were measured, those
    of one region are not alike."""
    return [
        sorted(able, key=lambda m: (ranks.get(m.region, 0), links.hop_us(seed, m, 0), m.layer_us))
        for seed in sorted(able, key=lambda m: (m.layer_us, m.node_id))[:_SEEDS_MAX]
    ]


def _until(pool: Sequence[Machine], limits: Mapping[str, int], needed: float) -> Sequence[Machine]:
    """The first machines that together have room for so many layers; none if they do not."""
    sum_layers = 0
    for index, machine in enumerate(pool[:_STAGES_MAX]):
        sum_layers += limits[machine.node_id]
        if sum_layers >= needed:
            return pool[: index + 1]
    return ()


def _thresholds(times_us: Sequence[float]) -> list[float]:
    """Some of the speeds there are, from fast to slow, the slowest among them."""
    times = sorted(set(times_us))
    stride = -(-len(times) // _THRESHOLDS_MAX) if times else 1
    return sorted({*times[::stride], *times[-1:]})


def chain_of(
    shape: ModelShape, members: Sequence[Machine], links: Links, room: Room, gap: range
) -> Chain | None:
    """A chain of all these machines over a gap; None where their memory does not do."""
    near = _in_order(members, links, shape.token_bytes)
    widest = sorted(near, key=room.left_bytes, reverse=True)
    ends = [widest[0], *(m for m in near if m not in widest[:2]), *widest[1:2]]
    for order in (near, near[::-1], ends):
        chain = _dealt(shape, order, links, room, gap)
        if chain is not None:
            return chain
    return None


def _in_order(members: Sequence[Machine], links: Links, size_bytes: int) -> list[Machine]:
    """From machine to nearest machine, so that slow links are crossed once."""
    left = sorted(members, key=lambda m: (m.region, m.host_id, m.node_id))
    order = left[:1]
    left = left[1:]
    while left:
        nearest = min(left, key=lambda m: links.hop_us(order[-1], m, size_bytes))
        left.remove(nearest)
        order.append(nearest)
    return order


def _dealt(
    shape: ModelShape, order: Sequence[Machine], links: Links, room: Room, gap: range
) -> Chain | None:
    final = len(order) - 1
    limits = [
        room.layers_max(
            machine,
            is_first=index == 0 and gap.start == 0,
            is_last=index == final and gap.stop == shape.layer_count,
        )
        for index, machine in enumerate(order)
    ]
    head_us = order[-1].layer_us * shape.head_layers * (gap.stop == shape.layer_count)
    extras_us = [0.0] * final + [head_us]
    lengths = deal([m.layer_us for m in order], extras_us, limits, len(gap))
    if lengths is None:
        return None
    placed: list[tuple[Machine, PlacedRange]] = []
    start = gap.start
    for machine, length in zip(order, lengths, strict=True):
        placed.append((machine, PlacedRange(machine.node_id, start, start + length)))
        start += length
    if not room.take(placed):
        return None
    room.give_back(placed)
    hops_us = sum(links.hop_us(a, b, shape.token_bytes) for a, b in pairwise(order))
    compute_us = sum(m.layer_us * n for m, n in zip(order, lengths, strict=True))
    back_us = links.hop_us(order[-1], order[0], 0)
    return Chain(tuple(placed), compute_us + head_us + hops_us + back_us)
