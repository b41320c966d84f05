"""Parallax's scheduler, as it ships: pipelines built one after the other from the largest machines,
layers dealt out by compute within each, whoever is left over joins at the lightest layer; then a
set of pipelines that share no machine, served in turns.

After GradientHQ/parallax src/scheduling/{layer_allocation,request_routing}.py (Apache-2.0), read
and written anew. Regions play no part there; round trips only where fixed pipelines are chosen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench.routing.fleets import Path, RandomFleet
from shoal_router.placement import Machine, PlacedRange

# Chains looked at per head; a fleet with many equal ranges has millions.
_CHAINS_MAX = 5000


def placement(fleet: RandomFleet) -> tuple[PlacedRange, ...]:
    """Ranges of all machines that hold any."""
    room = {m.node_id: fleet.layers_held_max(m) for m in fleet.machines}
    left = sorted(
        (m for m in fleet.machines if room[m.node_id]), key=lambda m: (-room[m.node_id], m.node_id)
    )
    layer_count = fleet.shape.layer_count
    ranges: list[PlacedRange] = []
    while sum(room[m.node_id] for m in left) >= layer_count:
        chosen = _next_pipeline(left, room, layer_count)
        ranges += _water_filled(chosen, room, layer_count)
        left = [m for m in left if m not in chosen]
    for machine in left:
        ranges.append(_joined(machine, room[machine.node_id], ranges, layer_count, room))
    return tuple(ranges)


def fixed_pipelines(fleet: RandomFleet, ranges: Sequence[PlacedRange]) -> list[Path]:
    """At most one for each head, heads with the fastest chain first, no machine in two."""
    starts: dict[int, list[PlacedRange]] = defaultdict(list)
    for placed in ranges:
        starts[placed.layer_start].append(placed)
    found = {head: _chains(head, starts, fleet.shape.layer_count, set()) for head in starts[0]}
    best = {h: min(map(fleet.step_us, chains)) for h, chains in found.items() if chains}
    used: set[str] = set()
    chosen: list[Path] = []
    for head in sorted(best, key=lambda h: (best[h], h.node_id)):
        chains = _chains(head, starts, fleet.shape.layer_count, used)
        if head.node_id in used or not chains:
            continue
        path = min(chains, key=fleet.step_us)
        chosen.append(path)
        used |= {placed.node_id for placed in path}
    return chosen


def in_turns(pipelines: Sequence[Path]) -> dict[Path, float]:
    """Strict round robin."""
    return {path: 1 / len(pipelines) for path in pipelines}


def by_strength(fleet: RandomFleet, pipelines: Sequence[Path]) -> dict[Path, float]:
    """Round robin weighted by what each pipeline carries."""
    rates = {path: 1 / max(map(fleet.work_us, path)) for path in pipelines}
    total = sum(rates.values())
    return {path: rate / total for path, rate in rates.items()}


def _next_pipeline(
    left: Sequence[Machine], room: dict[str, int], layer_count: int
) -> list[Machine]:
    """The largest machines until the layers fit; the smallest that suffices alone where enough for
    another pipeline stays."""
    total = sum(room[m.node_id] for m in left)
    alone = [
        m for m in left if room[m.node_id] >= layer_count and total - room[m.node_id] >= layer_count
    ]
    if alone:
        return [alone[-1]]
    chosen: list[Machine] = []
    for machine in left:
        chosen.append(machine)
        if sum(room[m.node_id] for m in chosen) >= layer_count:
            break
    return chosen


def _water_filled(
    machines: Sequence[Machine], room: dict[str, int], layer_count: int
) -> list[PlacedRange]:
    """Layers in proportion to speed, at most what finds room, in the order of the machines."""
    speeds = [1 / m.layer_us for m in machines]
    rooms = [room[m.node_id] for m in machines]
    low, high = 0.0, max(r / s for r, s in zip(rooms, speeds, strict=True))
    for _ in range(60):
        middle = (low + high) / 2
        if sum(min(r, middle * s) for r, s in zip(rooms, speeds, strict=True)) >= layer_count:
            high = middle
        else:
            low = middle
    wanted = [min(r, high * s) for r, s in zip(rooms, speeds, strict=True)]
    counts = [int(w) for w in wanted]
    by_rest = sorted(range(len(counts)), key=lambda i: counts[i] - wanted[i])
    while sum(counts) < layer_count:
        for i in by_rest:
            if counts[i] < rooms[i] and sum(counts) < layer_count:
                counts[i] += 1
    ranges, start = [], 0
    for machine, count in zip(machines, counts, strict=True):
        if count:
            ranges.append(PlacedRange(machine.node_id, start, start + count))
        start += count
    return ranges


def _joined(
    machine: Machine,
    count: int,
    ranges: Sequence[PlacedRange],
    layer_count: int,
    room: dict[str, int],
) -> PlacedRange:
    """From the layer with the least memory behind it on."""
    load = [0.0] * layer_count
    for placed in ranges:
        length = placed.layer_stop - placed.layer_start
        for layer in range(placed.layer_start, placed.layer_stop):
            load[layer] += room[placed.node_id] / length
    start = min(range(layer_count), key=lambda layer: (load[layer], layer))
    return PlacedRange(machine.node_id, start, min(start + count, layer_count))


def _chains(
    head: PlacedRange,
    starts: dict[int, list[PlacedRange]],
    layer_count: int,
    used: set[str],
) -> list[Path]:
    """Whole ranges that meet end to end, shorter ones tried first."""
    found: list[Path] = []
    stack: list[Path] = [(head,)]
    while stack and len(found) < _CHAINS_MAX:
        path = stack.pop()
        if path[-1].layer_stop == layer_count:
            found.append(path)
            continue
        further = sorted(starts[path[-1].layer_stop], key=lambda r: -r.layer_stop)
        stack += [(*path, r) for r in further if r.node_id not in used]
    return found
