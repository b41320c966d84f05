"""Owns: memory while a placement is being made. Workers of one host share what is free there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from shoal_router.placement.machines import Fit, Machine, PlacedRange
from shoal_router.placement.shape import ModelShape


class Room:
    """What is left on every machine. Invariant: never below zero, per machine and per host.

    reuses_held: engines of this model that may move leave room for what comes in their place.
    """

    def __init__(
        self, shape: ModelShape, machines: Iterable[Machine], fit: Fit, *, reuses_held: bool = False
    ) -> None:
        self._shape = shape
        self._fit = fit
        self._left: dict[str, int] = {}
        # By memory and ends: the same question comes up for every chain that is tried.
        self._lengths: dict[tuple[int, bool, bool], int] = {}
        self._on_host: Counter[str] = Counter()
        shared: dict[str, int] = {}
        for machine in machines:
            own_bytes = _movable_bytes(machine) if reuses_held else 0
            free_bytes = machine.free_bytes if fit is Fit.BESIDE else machine.room_bytes
            self._left[machine.node_id] = free_bytes + own_bytes
            host = _host(machine)
            shared[host] = max(shared.get(host, 0), free_bytes)
            self._on_host[host] += own_bytes
        self._on_host.update(shared)

    def left_bytes(self, machine: Machine) -> int:
        return min(self._left[machine.node_id], self._on_host[_host(machine)])

    def layers_max(self, machine: Machine, *, is_first: bool, is_last: bool) -> int:
        """The longest range that finds room, up to the whole model; it need not be both ends."""
        key = (self.left_bytes(machine), is_first, is_last)
        found = self._lengths.get(key)
        if found is None:
            found = self._lengths[key] = self._length(*key)
        return found

    def _length(self, left_bytes: int, is_first: bool, is_last: bool) -> int:
        shape, count = self._shape, self._shape.layer_count
        if self.needed_bytes(0, count) <= left_bytes:
            return count
        low, high = 0, count - 1
        while low < high:
            length = (low + high + 1) // 2
            if self.needed_bytes(*_example(length, shape, is_first, is_last)) <= left_bytes:
                low = length
            else:
                high = length - 1
        return low

    def needed_bytes(self, layer_start: int, layer_stop: int) -> int:
        """What a range takes, in the number format this room is counted in."""
        if self._fit is Fit.LEAST:
            return self._shape.least_memory_bytes(layer_start, layer_stop)
        return self._shape.memory_bytes(layer_start, layer_stop)

    def take(self, placed: Sequence[tuple[Machine, PlacedRange]]) -> bool:
        """Books ranges, all or none; False where there is no room for them."""
        needed = [
            (machine, self.needed_bytes(each.layer_start, each.layer_stop))
            for machine, each in placed
        ]
        nodes, hosts = Counter[str](), Counter[str]()
        for machine, size_bytes in needed:
            nodes[machine.node_id] += size_bytes
            hosts[_host(machine)] += size_bytes
        if any(size_bytes > self._left[node_id] for node_id, size_bytes in nodes.items()):
            return False
        if any(size_bytes > self._on_host[host] for host, size_bytes in hosts.items()):
            return False
        for node_id, size_bytes in nodes.items():
            self._left[node_id] -= size_bytes
        self._on_host.subtract(hosts)
        return True

    def give_back(self, placed: Sequence[tuple[Machine, PlacedRange]]) -> None:
        """Undoes `take`."""
        for machine, each in placed:
            size_bytes = self.needed_bytes(each.layer_start, each.layer_stop)
            self._left[machine.node_id] += size_bytes
            self._on_host[_host(machine)] += size_bytes


def _example(length: int, shape: ModelShape, is_first: bool, is_last: bool) -> tuple[int, int]:
    """Some range of this length that begins, ends, or does neither, as is asked for."""
    if is_first:
        return 0, length
    start = shape.layer_count - length if is_last else min(1, shape.layer_count - length)
    return start, start + length


def _host(machine: Machine) -> str:
    return f"host {machine.host_id}" if machine.host_id else f"node {machine.node_id}"


def _movable_bytes(machine: Machine) -> int:
    return 0 if machine.is_fixed else sum(held.memory_bytes for held in machine.held)
