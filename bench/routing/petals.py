"""Petals' scheduler: each server takes the layers that are served worst; each client takes the way
of least latency, with servers whose cache is full counted as ten seconds away.

After bigscience-workshop/petals server/block_selection.py and client/routing/sequence_manager.py
(MIT), read and written anew. A server's rate does not depend on its load there: many clients choose
the same way until its cache is full.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from bench.routing.fleets import Path, RandomFleet
from shoal_router.placement import Machine, PlacedRange

FULL_CACHE_US = 10e6
# A server moves when all together would then serve this much better.
BALANCE_QUALITY = 0.75
_ROUNDS_MAX = 20


def placement(fleet: RandomFleet) -> tuple[PlacedRange, ...]:
    """Servers join in the order of their names, then move while that pays."""
    machines = [m for m in fleet.machines if fleet.layers_held_max(m)]
    placed: dict[str, PlacedRange] = {}
    for machine in machines:
        placed[machine.node_id] = _worst_served(fleet, machine, placed)
    for _ in range(_ROUNDS_MAX):
        moved = False
        for machine in machines:
            others = {n: r for n, r in placed.items() if n != machine.node_id}
            better = _worst_served(fleet, machine, others)
            now = min(_rates(fleet, placed))
            then = min(_rates(fleet, others | {machine.node_id: better}))
            if now < BALANCE_QUALITY * then:
                placed[machine.node_id], moved = better, True
        if not moved:
            break
    return tuple(placed.values())


def _rates(fleet: RandomFleet, placed: Mapping[str, PlacedRange]) -> list[float]:
    """By layer: the sum of its servers' rates."""
    rates = [0.0] * fleet.shape.layer_count
    for r in placed.values():
        for layer in range(r.layer_start, r.layer_stop):
            rates[layer] += 1 / fleet.work_us(r)
    return rates


def _worst_served(
    fleet: RandomFleet, machine: Machine, placed: Mapping[str, PlacedRange]
) -> PlacedRange:
    """The stretch whose rates, sorted, are the lowest."""
    rates = _rates(fleet, placed)
    count = fleet.layers_held_max(machine)
    starts = range(fleet.shape.layer_count - count + 1)
    start = min(starts, key=lambda s: (sorted(rates[s : s + count]), s))
    return PlacedRange(machine.node_id, start, start + count)


def quickest(
    fleet: RandomFleet, ranges: Sequence[PlacedRange], full: frozenset[str] = frozenset()
) -> Path | None:
    """Dijkstra over (server, layer); None where some layer is not served.

    The client sits in the region of the first machine. It is asked to name its head, too.
    """
    queue: list[tuple[float, int, str, int]] = []
    by_node = {r.node_id: r for r in ranges}
    come_from: dict[tuple[str, int], tuple[str, int] | None] = {}
    best: dict[tuple[str, int], float] = {}

    def offer(cost: float, state: tuple[str, int], before: tuple[str, int] | None) -> None:
        if cost < best.get(state, float("inf")):
            best[state], come_from[state] = cost, before
            heapq.heappush(queue, (cost, -state[1], *state))

    def entry(node_id: str) -> float:
        return FULL_CACHE_US if node_id in full else 0.0

    for r in ranges:
        if r.layer_start == 0:
            offer(entry(r.node_id), (r.node_id, 0), None)
    while queue:
        cost, _, node_id, layer = heapq.heappop(queue)
        state = (node_id, layer)
        if cost > best[state]:
            continue
        if layer == fleet.shape.layer_count:
            return _path(come_from, state)
        step = fleet.shape.work(layer, layer + 1) * fleet.by_id[node_id].layer_us
        after = (node_id, layer + 1)
        if layer + 1 <= by_node[node_id].layer_stop:
            offer(cost + step, after, state)
        for r in ranges:
            if r.node_id != node_id and r.layer_start <= layer < r.layer_stop and layer > 0:
                there = cost + fleet.hop_us(node_id, r.node_id) + entry(r.node_id)
                offer(there, (r.node_id, layer), state)
    return None


def _path(
    come_from: Mapping[tuple[str, int], tuple[str, int] | None], state: tuple[str, int]
) -> Path:
    states: list[tuple[str, int]] = []
    at: tuple[str, int] | None = state
    while at is not None:
        states.append(at)
        at = come_from[at]
    states.reverse()
    path: list[PlacedRange] = []
    for node_id, layer in states:
        if path and path[-1].node_id == node_id:
            path[-1] = PlacedRange(node_id, path[-1].layer_start, layer)
        else:
            path.append(PlacedRange(node_id, layer, layer))
    return tuple(placed for placed in path if placed.layer_stop > placed.layer_start)
