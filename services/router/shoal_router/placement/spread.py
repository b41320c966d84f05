"""Owns: placing a model of which more is asked than it gives: every machine that helps, helps.

Machines that can hold the whole model do. The others form pipelines, or thicken the layers with
the least supply. No pipeline crosses regions while a region can serve alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from shoal_router.placement.candidates import Candidate, Goal, Placements
from shoal_router.placement.drawing import SAME, Board, gaps, held_ranges, milliseconds, won
from shoal_router.placement.machines import Fit, Links, Machine, PlacedRange
from shoal_router.placement.regions import Area, across, by_region, covers_well
from shoal_router.placement.room import Room
from shoal_router.placement.shape import ModelShape
from shoal_router.placement.thicken import thicken

# Machines this many times slower than their area's fastest help only where nothing else does.
_WEAK_FACTOR = 50.0
_SLACKS = (1.0, 1.5, 2.5)
_CHAINS_MAX = 1024
# Of placements that carry the same, one this much slower may win by what it need not load.
_AS_QUICK = 0.05

Ranges = list[PlacedRange]


@dataclass(frozen=True, slots=True)
class _Site:
    """One area while a variant is drawn there. fixed: ranges that nobody moves."""

    board: Board
    area: Area
    room: Room
    fixed: Ranges

    @property
    def movable(self) -> list[Machine]:
        return [machine for machine in self.area.machines if not machine.is_fixed]

    @property
    def strong(self) -> list[Machine]:
        """Movable machines that are not too slow to matter, the fastest first."""
        order = sorted(self.movable, key=lambda m: (m.layer_us, m.node_id))
        limit_us = order[0].layer_us * _WEAK_FACTOR if order else 0.0
        return [machine for machine in order if machine.layer_us <= limit_us]


_Variant = Callable[[_Site], Ranges | None]


def spread(shape: ModelShape, machines: Sequence[Machine], links: Links) -> Placements:
    """Every way considered, the one that carries the most first."""
    board = Board(shape, {m.node_id: m for m in machines}, links)
    single_us = board.best_single_us(_room(board))
    candidates = [candidate for candidate in _candidates(board) if candidate.covers]
    held = [each for machine in machines for each in held_ranges(machine)]
    candidates.append(board.candidate("as it is", held))
    return Placements(Goal.SPREAD, _judged(candidates, single_us), single_us)


def _variants() -> Iterator[tuple[str, _Variant]]:
    yield "the best machine alone", _single
    yield "what is held, thickened", _thickened
    yield "whole models", _replicas
    for slack in _SLACKS:
        yield f"pipelines with {slack:g} times the room", _pipelines(slack)
    yield "thinnest layers first", _thinnest_first


def _candidates(board: Board) -> Iterator[Candidate]:
    regions = by_region(list(board.machines.values()))
    able = _sufficient(board, regions)
    if not able:
        yield from _crossing(board)
        return
    for name, variant in _variants():
        room = _room(board)
        drawn = [_draw(board, area, variant, room) for area in able]
        ranges = [each for of_area in drawn for each in of_area or ()]
        if ranges:
            yield board.candidate(name, [*_fixed(board), *ranges])


def _crossing(board: Board) -> Iterator[Candidate]:
    """No region can serve alone, or none well."""
    for name, variant in _variants():
        for area in across(list(board.machines.values()), board.links):
            ranges = _draw(board, area, variant, _room(board))
            if ranges is not None:
                yield board.candidate(f"{name}, {area.name}", [*_fixed(board), *ranges])


def _fixed(board: Board) -> Ranges:
    return [each for m in board.machines.values() if m.is_fixed for each in held_ranges(m)]


def _room(board: Board) -> Room:
    return Room(board.shape, board.machines.values(), Fit.BESIDE, reuses_held=True)


def _site(board: Board, area: Area, room: Room) -> _Site:
    fixed = [each for m in area.machines if m.is_fixed for each in held_ranges(m)]
    return _Site(board, area, room, fixed)


def _sufficient(board: Board, regions: Sequence[Area]) -> list[Area]:
    """Regions that can serve alone; none where even the quickest of them is far slower than a way
    over slow links."""
    able = [(area, way) for area in regions if (way := _way(board, area)) is not None]
    near_us = min((way.step_us for _, way in able), default=float("inf"))
    across_us = float("inf")
    for area in across(list(board.machines.values()), board.links):
        way = _way(board, area)
        if way is not None and len({board.machines[n].region for n in way.node_ids}) > 1:
            across_us = min(across_us, way.step_us)
        elif way is not None:
            # Looking further has found a better way at home.
            near_us = min(near_us, way.step_us)
    return [area for area, _ in able] if covers_well(near_us, across_us) else []


def _way(board: Board, area: Area) -> Candidate | None:
    """What fills an area's gaps; None where it cannot serve."""
    site = _site(board, area, _room(board))
    ranges = board.fill(area, site.movable, site.fixed, site.room)
    return None if ranges is None else board.candidate(area.name, ranges)


def _draw(board: Board, area: Area, variant: _Variant, room: Room) -> Ranges | None:
    ranges = variant(_site(board, area, room))
    if ranges is None or gaps(ranges, board.shape.layer_count):
        return None
    return ranges


def _single(site: _Site) -> Ranges | None:
    for machine in site.strong:
        whole = site.board.whole(machine)
        if site.room.take([(machine, whole)]):
            return [*site.fixed, whole]
    return None


def _thickened(site: _Site) -> Ranges | None:
    """What is held stays; gaps are filled and thin layers thickened by those who hold nothing."""
    held = [(m, each) for m in site.movable for each in held_ranges(m)]
    if not site.room.take(held):
        return None
    idle = [machine for machine in site.movable if not machine.held]
    ranges = [*site.fixed, *(each for _, each in held)]
    filled = site.board.fill(site.area, idle, ranges, site.room)
    return None if filled is None else _with_leftovers(site, filled)


def _replicas(site: _Site) -> Ranges | None:
    found = list(site.fixed)
    for machine in site.strong:
        whole = site.board.whole(machine)
        if site.room.take([(machine, whole)]):
            found.append(whole)
    return found


def _pipelines(slack: float) -> _Variant:
    def draw(site: _Site) -> Ranges | None:
        """Whole models where they fit, then one chain after the other of those who are left."""
        found = _replicas(site) or []
        machines = site.strong
        if gaps(found, site.board.shape.layer_count):
            filled = site.board.fill(site.area, _unused(site.movable, found), found, site.room)
            if filled is None:
                return None
            found = filled
        for _ in range(_CHAINS_MAX):
            left = _unused(machines, found)
            chain = site.board.fill(site.area, left, [], site.room, slack)
            if chain is None:
                break
            found += chain
        return _with_leftovers(site, found)

    return draw


def _thinnest_first(site: _Site) -> Ranges | None:
    """The best single machine, then everybody where they are missed most."""
    found = _single(site) or list(site.fixed)
    machines = site.board.machines
    return thicken(site.board.shape, machines, _unused(site.strong, found), found, site.room)


def _with_leftovers(site: _Site, found: Ranges) -> Ranges:
    """Regions that a pipeline had to borrow from help with it; others stay out."""
    used = {site.board.machines[each.node_id].region for each in found}
    left = [m for m in _unused(site.strong, found) if m.region in used]
    return thicken(site.board.shape, site.board.machines, left, found, site.room)


def _unused(machines: Sequence[Machine], ranges: Sequence[PlacedRange]) -> list[Machine]:
    used = {each.node_id for each in ranges}
    return [machine for machine in machines if machine.node_id not in used]


def _judged(candidates: Sequence[Candidate], single_us: float) -> tuple[Candidate, ...]:
    """The winner first, then from good to bad, each with its reason."""
    unique = {each.ranges: each for each in reversed(candidates)}.values()
    able = [c for c in unique if c.covers and c.step_us * (1 - SAME) <= single_us]
    best = max((c.tokens_per_s for c in able), default=0.0)
    nearly = [c for c in able if c.tokens_per_s >= best * (1 - SAME)]
    order = sorted(unique, key=lambda c: (-c.tokens_per_s, c.step_us, c.name))
    if not nearly:
        return tuple(replace(each, reason="layers are missing") for each in order)
    quick_us = min(c.step_us for c in nearly) * (1 + _AS_QUICK)

    def rank(c: Candidate) -> tuple[object, ...]:
        return (c.move_bytes > 0, c.step_us > quick_us, c.move_bytes, c.step_us, c.name)

    winner = min(nearly, key=rank)
    losers = [replace(c, reason=_why_not(c, winner, single_us)) for c in order if c is not winner]
    reason = f"{winner.tokens_per_s:.3g} steps/s, {milliseconds(winner.step_us)} a step"
    return (won(winner, reason), *losers)


def _why_not(loser: Candidate, winner: Candidate, single_us: float) -> str:
    if not loser.covers:
        return "layers are missing"
    if loser.step_us * (1 - SAME) > single_us:
        return f"the best machine alone steps in {milliseconds(single_us)}"
    if loser.tokens_per_s < winner.tokens_per_s * (1 - SAME):
        return f"{loser.tokens_per_s:.3g} steps/s against {winner.tokens_per_s:.3g}"
    if loser.step_us > winner.step_us:
        return f"{milliseconds(loser.step_us)} a step against {milliseconds(winner.step_us)}"
    if loser.move_bytes > winner.move_bytes:
        return f"as good, with {loser.move_bytes >> 20} MiB to load"
    return "no better"
