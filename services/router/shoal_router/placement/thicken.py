"""Owns: where machines that are left over help most: at the layers with the least supply.

The rule is that of Petals' servers: whoever joins takes the stretch whose thinnest layer is the
thinnest of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from shoal_router.placement.machines import Machine, PlacedRange
from shoal_router.placement.room import Room
from shoal_router.placement.shape import ModelShape


def thicken(
    shape: ModelShape,
    machines: Mapping[str, Machine],
    newcomers: Iterable[Machine],
    ranges: Sequence[PlacedRange],
    room: Room,
) -> list[PlacedRange]:
    """`ranges` and one more for each newcomer that has room for any layer; the strongest first.

    Books what it places. machines: all that `ranges` speak of.
    """
    supply = [0.0] * shape.layer_count
    for each in ranges:
        _add(supply, shape, each, machines[each.node_id])
    limits = {m.node_id: room.layers_max(m, is_first=False, is_last=False) for m in newcomers}
    order = sorted(
        newcomers, key=lambda m: (-limits[m.node_id] / m.layer_us, m.layer_us, m.node_id)
    )
    found = list(ranges)
    for machine in order:
        best = _thinnest(shape, machine, supply, room)
        if best is not None and room.take([(machine, best)]):
            found.append(best)
            _add(supply, shape, best, machine)
    return found


def _add(supply: list[float], shape: ModelShape, each: PlacedRange, machine: Machine) -> None:
    """A range serves all of its layers at the rate at which it gets through them."""
    rate = 1e6 / (machine.layer_us * shape.work(each.layer_start, each.layer_stop))
    for layer in range(each.layer_start, each.layer_stop):
        supply[layer] += rate


def _thinnest(
    shape: ModelShape, machine: Machine, supply: Sequence[float], room: Room
) -> PlacedRange | None:
    """The stretch that a machine should hold, as long as it has room for."""
    count = shape.layer_count
    inner = room.layers_max(machine, is_first=False, is_last=False)
    if inner == count:
        return PlacedRange(machine.node_id, 0, count)
    first = room.layers_max(machine, is_first=True, is_last=False)
    last = room.layers_max(machine, is_first=False, is_last=True)
    options = [(start, start + inner) for start in range(1, count - inner)] if inner else []
    options += [(0, first)] if first else []
    options += [(count - last, count)] if last else []
    sums = [0.0, *accumulate(supply)]

    def need(option: tuple[int, int]) -> tuple[float, float, int]:
        start, stop = option
        mean = (sums[stop] - sums[start]) / (stop - start)
        return min(supply[start:stop]), mean, start

    best = min(options, key=need, default=None)
    return PlacedRange(machine.node_id, *best) if best else None
