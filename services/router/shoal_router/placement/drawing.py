"""Owns: drawing up one candidate: its figures, and what is common to both goals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from shoal_router.placement.candidates import Candidate
from shoal_router.placement.chains import Chain, best_chain
from shoal_router.placement.machines import Fit, Links, Machine, PlacedRange
from shoal_router.placement.predict import step_us, tokens_per_s
from shoal_router.placement.regions import Area
from shoal_router.placement.room import Room
from shoal_router.placement.shape import ModelShape

# Predictions that differ by less are the same.
SAME = 0.02


@dataclass(frozen=True, slots=True)
class Board:
    """The problem: one model, all machines by name, the ways between them."""

    shape: ModelShape
    machines: dict[str, Machine]
    links: Links

    def candidate(
        self, name: str, ranges: Iterable[PlacedRange], fit: Fit = Fit.BESIDE
    ) -> Candidate:
        """With its predictions; of ranges named twice, one."""
        unique = sorted(set(ranges), key=lambda r: (r.layer_start, r.layer_stop, r.node_id))
        held = {each for machine in self.machines.values() for each in held_ranges(machine)}
        moved = (each for each in unique if each not in held)
        return Candidate(
            name=name,
            ranges=tuple(unique),
            tokens_per_s=tokens_per_s(self.shape, self.machines, unique, self.links),
            step_us=step_us(self.shape, self.machines, unique, self.links),
            fit=fit,
            move_bytes=sum(
                self.shape.stored_bytes(each.layer_start, each.layer_stop) for each in moved
            ),
        )

    def alone_us(self, machine: Machine) -> float:
        """A step of a machine that holds the whole model."""
        return machine.layer_us * self.shape.work_layers

    def whole(self, machine: Machine) -> PlacedRange:
        return PlacedRange(machine.node_id, 0, self.shape.layer_count)

    def best_single_us(self, room: Room) -> float:
        """A step of the fastest machine that holds the whole model, or could."""
        count = self.shape.layer_count
        able = (
            machine
            for machine in self.machines.values()
            if self.whole(machine) in held_ranges(machine)
            or (not machine.is_fixed and room.needed_bytes(0, count) <= room.left_bytes(machine))
        )
        return min(map(self.alone_us, able), default=float("inf"))

    def fill(
        self,
        area: Area,
        machines: Sequence[Machine],
        ranges: Sequence[PlacedRange],
        room: Room,
        slack: float = 1.0,
    ) -> list[PlacedRange] | None:
        """`ranges` with every gap filled by these machines, booked; None where they cannot.

        Where gaps find no machines of their own, one chain of all layers may still do.
        """
        count = self.shape.layer_count
        missing = gaps(ranges, count)
        for wanted in (missing, [range(count)]) if missing != [range(count)] else (missing,):
            chains = self._chains(area, machines, wanted, room, slack)
            if chains is not None:
                return [*ranges, *(each for chain in chains for each in chain.ranges)]
        return None

    def _chains(
        self,
        area: Area,
        machines: Sequence[Machine],
        wanted: Sequence[range],
        room: Room,
        slack: float,
    ) -> list[Chain] | None:
        """One chain for each gap, booked all or none."""
        chains: list[Chain] = []
        left = list(machines)
        for gap in wanted:
            chain = best_chain(self.shape, left, self.links, room, gap, slack=slack, rank=area.rank)
            if chain is None or not room.take(chain.placed):
                for each in chains:
                    room.give_back(each.placed)
                return None
            chains.append(chain)
            used = {machine.node_id for machine in chain.machines}
            left = [machine for machine in left if machine.node_id not in used]
        return chains


def held_ranges(machine: Machine) -> list[PlacedRange]:
    return [PlacedRange(machine.node_id, h.layer_start, h.layer_stop) for h in machine.held]


def gaps(ranges: Iterable[PlacedRange], layer_count: int) -> list[range]:
    """Stretches of [0, layer_count) that nobody holds, in order."""
    found: list[range] = []
    position = 0
    for each in sorted(ranges, key=lambda r: (r.layer_start, r.layer_stop)):
        if each.layer_start > position:
            found.append(range(position, each.layer_start))
        position = max(position, each.layer_stop)
    if position < layer_count:
        found.append(range(position, layer_count))
    return found


def won(candidate: Candidate, reason: str) -> Candidate:
    return replace(candidate, is_chosen=True, reason=reason)


def milliseconds(time_us: float) -> str:
    return f"{time_us / 1000:.3g} ms"
