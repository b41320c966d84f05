"""Owns: the few pipelines that a model's engines form, and how much each of them carries. Pure.

What an engine can carry is its time: over all pipelines through it, the sum of steps per second x
layers x time of a layer is at most 1; and its places: steps per second x time of a step is at most
the sequences it runs at once. The most flow is found by column generation: a linear program parts
the flow among known ways, what is full gets a price, and the cheapest ways at these prices join
until none is worth it. A way is worth less the longer it takes, so that hops are not free. Does not
know: requests, time, revisions of pipelines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from shoal_router.network import Ends, Network, Step, Way
from shoal_router.packing import Packing, packing
from shoal_router.pipeline import (
    Costs,
    Engine,
    Pipeline,
    RttOf,
    Times,
    by_revision,
    nobody_measured,
    order,
)

# What pipelines that already run must be worse by, in what they carry or in their time, before
# others take their place: measured times wander by some percent, and requests batch only if
# pipelines stay.
KEEP_UNLESS_WORSE = 1.25
# A pipeline that carries less than this part of the largest is not worth a place.
LEAST_SHARE = 0.01
# What a way loses of its worth for taking twice as long as the fastest. It decides between equals
# and leaves out what takes for ever (fifty times as long), and no more.
DETOUR_PRICE = 0.02
# Cells of the linear program at which the search ends with what it has: it takes some 10 ms then.
CELLS_MAX = 3000
# What the time of an engine that has none left costs while ways are looked for, in its own time.
FULL_PRICE = 50.0
WAYS_PER_ROUND = 4
# A way must promise this part more than its price: the last percents cost the most rounds.
GAIN_LEAST = 1.01


@dataclass(frozen=True, slots=True)
class FlowOptions:
    """count_max: pipelines at most. uses_parts: a stage may use part of an engine's range.
    rounds_max: 0 is quick, and leaves up to a third of what could flow on the table."""

    count_max: int = 16
    uses_parts: bool = True
    rounds_max: int = 24
    costs: Costs = field(default_factory=Costs)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What pipelines are made of: engines of one model, links between them, who may be an end."""

    engines: Sequence[Engine]
    rtt_us: RttOf = nobody_measured
    ends: Ends = field(default_factory=Ends)


Search = Generator[None, None, tuple[Pipeline, ...]]
_Row = tuple[str, int]


def pipelines_of(
    fleet: Fleet, options: FlowOptions, running: Sequence[Pipeline] = ()
) -> tuple[Pipeline, ...]:
    """At most `count_max` pipelines, in `order`; the fastest and the best single machine are among
    them, whatever they carry.

    running: the pipelines of before. They stay unless others are clearly better.
    """
    search = searching(fleet, options, running)
    while True:
        try:
            next(search)
        except StopIteration as done:
            found: tuple[Pipeline, ...] = done.value
            return found


def searching(fleet: Fleet, options: FlowOptions, running: Sequence[Pipeline] = ()) -> Search:
    """`pipelines_of` in small steps: a thousand engines are no reason to stand still."""
    for family in by_revision(fleet.engines):
        of_family = [p for p in running if p.stages[0].revision == family[0].revision]
        found = yield from _Finding(replace(fleet, engines=family), options).best(of_family)
        if found:
            return found
    return ()


class _Finding:
    """The search within one family."""

    def __init__(self, fleet: Fleet, options: FlowOptions) -> None:
        self._engines = sorted(fleet.engines, key=_name)
        self._ends = fleet.ends
        self._options = options
        self._times = Times.of(self._engines, options.costs, fleet.rtt_us)
        by_size: dict[int, list[int]] = {}
        for i, engine in enumerate(self._engines):
            by_size.setdefault(engine.block_size_tokens, []).append(i)
        self._networks = [
            Network(self._engines, members, self._times, fleet.ends, uses_parts=options.uses_parts)
            for members in by_size.values()
        ]

    def best(self, running: Sequence[Pipeline]) -> Search:
        """Fresh pipelines, or those that run with what can be added to them."""
        pool = yield from self._pool()
        if not pool.ways:
            return ()
        fresh = yield from self._few(pool, ())
        slowest_us = max(p.time_us for p in fresh if p.weight) * KEEP_UNLESS_WORSE
        standing = [way for way in self._standing(running) if self._time(way) <= slowest_us]
        if not standing:
            return fresh
        kept = yield from self._few(pool, standing)
        return fresh if _is_worse(kept, fresh) else kept

    def _pool(self) -> Generator[None, None, _Pool]:
        """Ways among which the best flow is found."""
        pool = _Pool(self._engines, self._times, self._always())
        yield from self._peel(pool)
        if not pool.ways:
            return pool
        prices = pool.prices()
        for _ in range(self._options.rounds_max):
            found: list[tuple[float, Way]] = []
            for network in self._networks:
                found += network.cheapest(prices, WAYS_PER_ROUND)
                yield
            if pool.is_large or not (yield from pool.add(found)):
                break
            # Half way only: full prices make the search swing from one end to the other.
            prices = [(a + b) / 2 for a, b in zip(prices, pool.prices(), strict=True)]
        return pool

    def _peel(self, pool: _Pool) -> Generator[None, None, None]:
        """Takes the cheapest way until it is full, and again where engines that have little left
        are dear: not the best flow, but most of its ways at little cost."""
        left = [1.0] * len(self._engines)
        ways: list[tuple[float, Way]] = []
        for network in self._networks:
            for _ in range(self._options.count_max):
                prices = [min(FULL_PRICE, 1 / max(share, 1e-9) - 1) for share in left]
                found = network.cheapest(prices, 1)
                yield
                if not found:
                    break
                way = found[0][1]
                takes = [
                    self._times.stage_us(self._engines[s.engine].part(s.start, s.stop)) for s in way
                ]
                width = min(left[s.engine] / us for s, us in zip(way, takes, strict=True))
                for step, us in zip(way, takes, strict=True):
                    left[step.engine] -= width * us
                ways.append((0.0, way))
        yield from pool.add(ways)

    def _always(self) -> list[Way]:
        """The best single machine: a chain that is slower never takes its place."""
        whole = [
            i
            for i, e in enumerate(self._engines)
            if e.is_whole and self._ends.may_start(e) and self._ends.may_stop(e)
        ]
        best = min(whole, key=lambda i: self._times.layer_us(self._engines[i]), default=None)
        return [] if best is None else [(Step(best, 0, self._engines[best].layer_count),)]

    def _standing(self, running: Sequence[Pipeline]) -> list[Way]:
        """Running pipelines as ways through the engines of now; those that lost one are gone."""
        by_incarnation = {e.incarnation: i for i, e in enumerate(self._engines)}
        ways = []
        for pipeline in running:
            way = tuple(
                Step(by_incarnation[s.incarnation], s.layer_start, s.layer_stop)
                for s in pipeline.stages
                if s.incarnation in by_incarnation
            )
            if len(way) == len(pipeline.stages) and all(map(self._is_possible, way)):
                ways.append(way)
        return ways

    def _is_possible(self, step: Step) -> bool:
        engine = self._engines[step.engine]
        if not self._options.uses_parts:
            return (engine.layer_start, engine.layer_stop) == (step.start, step.stop)
        return engine.layer_start <= step.start and step.stop <= engine.layer_stop

    def _few(self, pool: _Pool, standing: Sequence[Way]) -> Search:
        """The ways that run, and then those that carry most in the best flow of all."""
        least_us = min(map(self._time, standing), default=inf) / KEEP_UNLESS_WORSE
        fastest = [way for way in [pool.fastest] if self._time(way) < least_us]
        always = list(dict.fromkeys([*pool.always, *fastest]))
        chosen = list(dict.fromkeys([*always, *standing]))[: self._options.count_max]
        rest = [way for way in pool.by_flow() if way not in chosen]
        while True:
            free = self._options.count_max - len(chosen)
            chosen += rest[:free]
            rest = rest[free:]
            flows = yield from pool.flows(chosen, standing)
            least = max(flows) * LEAST_SHARE
            carrying = [
                way
                for way, flow in zip(chosen, flows, strict=True)
                if flow > least or way in always
            ]
            if len(carrying) == len(chosen) or not rest:
                break
            chosen = carrying
        flows = yield from pool.flows(carrying, standing)
        return self._named(carrying, flows)

    def _time(self, way: Way) -> int:
        return self._times.step_us(_stages(self._engines, way))

    def _named(self, ways: Sequence[Way], flows: Sequence[float]) -> tuple[Pipeline, ...]:
        total = sum(flows)
        pipelines = []
        for way, flow in zip(ways, flows, strict=True):
            stages = _stages(self._engines, way)
            time_us = self._times.step_us(stages)
            pipelines.append(Pipeline(stages, time_us, weight=flow / total, steps_per_s=flow))
        return tuple(sorted(pipelines, key=order))


class _Pool:
    """Ways that were found, and the best flow through them."""

    def __init__(self, engines: Sequence[Engine], times: Times, always: Sequence[Way]) -> None:
        self._engines = engines
        self._times = times
        self._step_us: dict[Way, int] = {}
        self._packing: Packing[_Row] = Packing([], {})
        self.always = list(always)

    @property
    def ways(self) -> list[Way]:
        return list(self._step_us)

    @property
    def is_large(self) -> bool:
        shared = Counter(step.engine for way in self._step_us for step in way)
        rows = sum(count > 1 for count in shared.values())
        return rows * len(self._step_us) > CELLS_MAX

    @property
    def fastest(self) -> Way:
        return min(self._step_us, key=lambda way: (self._step_us[way], len(way), way))

    def add(self, found: Iterable[tuple[float, Way]]) -> Generator[None, None, bool]:
        """Takes in ways by their price; False when none is worth it and the flow is the best."""
        before = len(self._step_us)
        for way in () if self._step_us else self.always:
            self._step_us[way] = self._time(way)
        for cost, way in found:
            if self._is_worth(cost) and way not in self._step_us:
                self._step_us[way] = self._time(way)
        if len(self._step_us) == before:
            return False
        self._packing = yield from self._packed(self.ways)
        return True

    def _is_worth(self, cost: float) -> bool:
        """A way's worth is 1 + d - d x its time / the least time; that divided by d / the least."""
        if not self._step_us:
            return True
        return cost * GAIN_LEAST < self._least_us * (1 + DETOUR_PRICE) / DETOUR_PRICE

    @property
    def _least_us(self) -> int:
        return min(self._step_us.values())

    def prices(self) -> list[float]:
        """By engine: what a microsecond of its time costs, in microseconds of a way's time."""
        scale = self._least_us / DETOUR_PRICE * 1e-6
        return [
            self._packing.prices.get(("time", i), 0.0) * scale for i in range(len(self._engines))
        ]

    def by_flow(self) -> list[Way]:
        """The ways that carry something when all of the pool may, the largest first."""
        pairs = zip(self._packing.amounts, self._step_us, strict=True)
        carrying = [(flow, way) for flow, way in pairs if flow > 0]
        return [way for _, way in sorted(carrying, key=lambda pair: (-pair[0], pair[1]))]

    def flows(
        self, ways: Sequence[Way], standing: Sequence[Way]
    ) -> Generator[None, None, list[float]]:
        """Steps per second of each when these share the engines, those that stand before others."""
        return (yield from self._packed(ways, frozenset(standing))).amounts

    def _packed(
        self, ways: Sequence[Way], standing: frozenset[Way] = frozenset()
    ) -> Generator[None, None, Packing[_Row]]:
        least_us = self._least_us
        worth = []
        rows: dict[_Row, dict[int, float]] = {}
        for column, way in enumerate(ways):
            time_us = self._step_us.get(way) or self._time(way)
            own = 1 + DETOUR_PRICE - DETOUR_PRICE * time_us / least_us
            worth.append(own if way in standing or not standing else own / KEEP_UNLESS_WORSE)
            for step in way:
                engine = self._engines[step.engine]
                stage_us = self._times.stage_us(engine.part(step.start, step.stop))
                rows.setdefault(("time", step.engine), {})[column] = stage_us * 1e-6
                if engine.running_max:
                    share = time_us * 1e-6 / engine.running_max
                    rows.setdefault(("places", step.engine), {})[column] = share
        return (yield from packing(worth, rows))

    def _time(self, way: Way) -> int:
        return self._times.step_us(_stages(self._engines, way))


def _stages(engines: Sequence[Engine], way: Way) -> tuple[Engine, ...]:
    return tuple(engines[s.engine].part(s.start, s.stop) for s in way)


def _name(engine: Engine) -> tuple[int, int, str, str]:
    return (engine.layer_start, engine.layer_stop, engine.node_id, engine.incarnation)


def _is_worse(kept: Iterable[Pipeline], fresh: Iterable[Pipeline]) -> bool:
    """Clearly: in what all carry together, or in the time of the fastest."""
    kept, fresh = tuple(kept), tuple(fresh)
    carried = sum(p.steps_per_s for p in kept) * KEEP_UNLESS_WORSE
    time_us = min(p.time_us for p in kept) / KEEP_UNLESS_WORSE
    return carried < sum(p.steps_per_s for p in fresh) or time_us > min(p.time_us for p in fresh)
