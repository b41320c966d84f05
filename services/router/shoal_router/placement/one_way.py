"""Owns: placing a model that is wanted where as little of the fleet as possible is to be taken.

What is held of it stays. The best single machine wins unless machines together are faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from shoal_router.placement.candidates import Candidate, Goal, Placements
from shoal_router.placement.drawing import Board, gaps, held_ranges, milliseconds, won
from shoal_router.placement.machines import Fit, Links, Machine, PlacedRange
from shoal_router.placement.regions import Area, across, by_region, covers_well
from shoal_router.placement.room import Room
from shoal_router.placement.shape import ModelShape

# What a step may take longer for idle models to stay where they are.
_STAY_FACTOR = 1.5
# Single machines that are shown, of each fit.
_SINGLES_MAX = 4


@dataclass(frozen=True, slots=True)
class _Option:
    candidate: Candidate
    room_bytes: int
    """On a single machine, for engines: of equals the one with the most is taken."""

    def rank(self) -> tuple[object, ...]:
        found = self.candidate
        patience = _STAY_FACTOR if found.fit is Fit.INSTEAD else 1.0
        return (
            not found.covers,
            found.fit is Fit.LEAST,
            round(found.step_us * patience, 3) if found.covers else 0.0,
            len(found.ranges),
            -self.room_bytes,
            found.move_bytes,
            found.node_ids,
        )


def one_way(
    shape: ModelShape, machines: Sequence[Machine], links: Links, avoid: frozenset[str]
) -> Placements:
    """Every way considered; a node to avoid is used only where the others do not suffice."""
    board = Board(shape, {m.node_id: m for m in machines}, links)
    welcome = [m for m in machines if m.node_id not in avoid]
    options = list(_options(board, welcome))
    if avoid and not any(option.candidate.covers for option in options):
        options = list(_options(board, machines))
    options.sort(key=_Option.rank)
    return Placements(
        Goal.ONE_WAY,
        _explained([option.candidate for option in options]),
        board.best_single_us(Room(shape, machines, Fit.INSTEAD)),
    )


def _options(board: Board, machines: Sequence[Machine]) -> Iterator[_Option]:
    base = [each for machine in board.machines.values() for each in held_ranges(machine)]
    if base:
        yield _Option(board.candidate("as it is", base), 0)
        if not gaps(base, board.shape.layer_count):
            return
    free = [machine for machine in machines if not machine.is_fixed]
    shown: set[str] = set()
    found = [option for fit in Fit for option in _singles(board, free, base, fit, shown)]
    found += _chains(board, by_region(free), base)
    yield from found
    best_us = min(
        (o.candidate.step_us for o in found if o.candidate.fit is not Fit.LEAST),
        default=float("inf"),
    )
    # Over slow links goes only what no region has room for as it is, or serves far slower.
    for option in _chains(board, across(free, board.links), base):
        if not covers_well(best_us, option.candidate.step_us):
            yield option


def _singles(
    board: Board, free: Sequence[Machine], base: Sequence[PlacedRange], fit: Fit, shown: set[str]
) -> Iterator[_Option]:
    """The best machines that take the whole model, of those not `shown` yet."""
    room = Room(board.shape, free, fit)
    needed_bytes = room.needed_bytes(0, board.shape.layer_count)
    able = sorted(
        (m for m in free if m.node_id not in shown and room.left_bytes(m) >= needed_bytes),
        key=lambda m: (m.layer_us, -room.left_bytes(m), m.node_id),
    )
    shown |= {machine.node_id for machine in able}
    for machine in able[:_SINGLES_MAX]:
        candidate = board.candidate(f"{machine.node_id} alone", [board.whole(machine)], fit)
        # What is held elsewhere stays, and may help, but is not what this one is about.
        ranges = (*candidate.ranges, *base)
        yield _Option(replace(candidate, ranges=ranges), room.left_bytes(machine))


def _chains(board: Board, areas: Sequence[Area], base: Sequence[PlacedRange]) -> Iterator[_Option]:
    for area in areas:
        for fit in Fit:
            room = Room(board.shape, area.machines, fit)
            filled = board.fill(area, area.machines, base, room)
            if filled is None:
                continue
            if len(filled) > 1:
                name = "completed" if base else "a pipeline"
                where = f" in {area.name}" if area.name else ""
                yield _Option(board.candidate(f"{name}{where}", filled, fit), 0)
            break


def _explained(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    if not candidates or not candidates[0].covers:
        return tuple(replace(each, reason="layers are missing") for each in candidates)
    best = candidates[0]
    how = "fewest machines" if len(best.ranges) == 1 else "no single machine is as fast"
    losers = (replace(each, reason=_why_not(each, best)) for each in candidates[1:])
    return (won(best, f"{milliseconds(best.step_us)} a step; {how}; {best.fit.value}"), *losers)


def _why_not(loser: Candidate, best: Candidate) -> str:
    if not loser.covers:
        return "layers are missing"
    if loser.fit is not best.fit:
        return f"it has room only {loser.fit.value}"
    if loser.step_us > best.step_us:
        return f"{milliseconds(loser.step_us)} a step against {milliseconds(best.step_us)}"
    if len(loser.ranges) > len(best.ranges):
        return "more machines for the same step"
    return "as fast, with less room"
