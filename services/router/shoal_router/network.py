"""Owns: the cheapest ways through the layers of a model, where an engine's time has a price. Pure.

A way is a sequence of engines and the layers that each runs. Does not know: who sets prices, which
ways become pipelines, requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from shoal_router.pipeline import Engine, Times

# Engines considered per layer, the cheapest first: more find little, and cost time with a thousand.
BRANCHES_MAX = 12
# Ways to a position that others may go on from, besides the best of each region and machine.
DOORS_MAX = 3

End = Callable[[Engine], bool]


@dataclass(frozen=True, slots=True)
class Ends:
    """Which engines may be the first and the last stage."""

    may_start: End = lambda _: True
    may_stop: End = lambda _: True


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One stage of a way: the engine's index, and the layers that it runs."""

    engine: int
    start: int
    stop: int


Way = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class _Visit:
    """An engine entered at a position, and the visit before it."""

    engine: int
    start: int
    before: _Visit | None

    def engines(self) -> Iterable[int]:
        visit: _Visit | None = self
        while visit is not None:
            yield visit.engine
            visit = visit.before

    @property
    def head(self) -> int:
        return list(self.engines())[-1]

    def way(self, stop: int) -> Way:
        steps: list[Step] = []
        visit: _Visit | None = self
        while visit is not None:
            steps.append(Step(visit.engine, visit.start, stop))
            stop, visit = visit.start, visit.before
        return tuple(reversed(steps))


@dataclass(frozen=True, slots=True)
class _Door:
    """What it costs to stand at a position behind a visit."""

    cost: float
    visit: _Visit


class Network:
    """The ways through engines of one model, revision and block size.

    members: their indices among `engines`. uses_parts: a stage may be any part of an engine's
    range; else it is the whole range.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        members: Sequence[int],
        times: Times,
        ends: Ends,
        *,
        uses_parts: bool,
    ) -> None:
        self._engines = engines
        self._times = times
        self._ends = ends
        self._uses_parts = uses_parts
        self._member_count = len(members)
        self._layer_count = engines[members[0]].layer_count
        self._layer_us = [times.layer_us(e) for e in engines]
        places = Counter(_place(engines[i]) for i in members)
        self._shared_places = {place for place, count in places.items() if count > 1}
        self._covering: list[list[int]] = [[] for _ in range(self._layer_count)]
        for i in members:
            for p in range(engines[i].layer_start, engines[i].layer_stop):
                self._covering[p].append(i)

    def cheapest(self, price: Sequence[float], count: int) -> list[tuple[float, Way]]:
        """Up to `count` ways with different last stages, each with its cost, the cheapest first.

        price: by engine, what a microsecond of its time costs beyond the microsecond itself.
        """
        cost_of = [us * (1.0 + y) for us, y in zip(self._layer_us, price, strict=True)]
        visit_of = [self._times.costs.visit_us * (1.0 + y) for y in price]
        covering = self._branches(cost_of)
        last = self._layer_count - 1
        here: dict[int, _Door] = {}
        for p in range(self._layer_count):
            doors = self._doors(here, p) if p else None
            there: dict[int, _Door] = {}
            for i in covering[p]:
                door = self._at(i, p, here.get(i), doors, visit_of[i])
                if door is not None:
                    work = 1.0 if p < last else 1.0 + self._engines[i].head_layers
                    there[i] = _Door(door.cost + cost_of[i] * work, door.visit)
            here = there
        ended = [self._returned(door) for i, door in here.items() if self._may_end(i)]
        best = nsmallest(count, ended, key=lambda door: (door.cost, door.visit.engine))
        return [(door.cost, door.visit.way(self._layer_count)) for door in best]

    def _branches(self, cost_of: Sequence[float]) -> list[list[int]]:
        """Per layer, the engines that are cheap somewhere, in order."""
        if self._member_count <= BRANCHES_MAX:
            return self._covering
        chosen: set[int] = set()
        for p, able in enumerate(self._covering):
            chosen.update(nsmallest(BRANCHES_MAX, able, key=cost_of.__getitem__))
            if p == 0:
                able = [i for i in able if self._ends.may_start(self._engines[i])]
            elif p == self._layer_count - 1:
                able = [i for i in able if self._may_end(i)]
            else:
                continue
            # Few may be ends where that is restricted: they are not lost among the many.
            chosen.update(nsmallest(BRANCHES_MAX, able, key=cost_of.__getitem__))
        return [[i for i in able if i in chosen] for able in self._covering]

    def _may_end(self, i: int) -> bool:
        engine = self._engines[i]
        return engine.layer_stop == self._layer_count and self._ends.may_stop(engine)

    def _at(
        self, i: int, p: int, stay: _Door | None, doors: _Doors | None, visit_us: float
    ) -> _Door | None:
        """The cheapest way to run a layer on an engine: stay there, or come from another one."""
        engine = self._engines[i]
        if doors is None:
            cost = 0.0 if engine.is_whole else visit_us
            return _Door(cost, _Visit(i, 0, None)) if self._ends.may_start(engine) else None
        if not (self._uses_parts or engine.layer_start == p):
            return stay
        best, cost = None, stay.cost if stay is not None else float("inf")
        for door in doors.to(engine):
            if door.cost >= cost:
                continue
            hop_us = visit_us + self._times.hop_us(self._engines[door.visit.engine], engine)
            if door.cost + hop_us < cost and i not in door.visit.engines():
                best, cost = door, door.cost + hop_us
        return stay if best is None else _Door(cost, _Visit(i, p, best.visit))

    def _doors(self, here: dict[int, _Door], p: int) -> _Doors:
        """The cheapest of those that may hand over at a position."""
        able = [
            door for i, door in here.items() if self._uses_parts or self._engines[i].layer_stop == p
        ]
        doors = _Doors(nsmallest(DOORS_MAX, able, key=_rank))
        for door in able:
            engine = self._engines[door.visit.engine]
            place = _place(engine)
            if place in self._shared_places:
                _keep_cheaper(doors.of_place, place, door)
            _keep_cheaper(doors.of_region, engine.region, door)
        return doors

    def _returned(self, door: _Door) -> _Door:
        """With the hop that takes the token back to the head."""
        head = door.visit.head
        if head == door.visit.engine:
            return door
        hop_us = self._times.hop_us(self._engines[door.visit.engine], self._engines[head])
        return _Door(door.cost + hop_us, door.visit)


class _Doors:
    """What can be gone on from at one position."""

    def __init__(self, best: list[_Door]) -> None:
        self.best = best
        self.of_region: dict[str, _Door] = {}
        self.of_place: dict[str, _Door] = {}

    def to(self, engine: Engine) -> list[_Door]:
        doors = self.best
        for near in (self.of_region.get(engine.region), self.of_place.get(_place(engine))):
            if near is not None and near not in doors:
                doors = [*doors, near]
        return doors


def _place(engine: Engine) -> str:
    return engine.host_id or engine.node_id


def _rank(door: _Door) -> tuple[float, int, int]:
    return (door.cost, door.visit.start, door.visit.engine)


def _keep_cheaper(doors: dict[str, _Door], key: str, door: _Door) -> None:
    known = doors.get(key)
    if known is None or _rank(door) < _rank(known):
        doors[key] = door
