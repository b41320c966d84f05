"""Owns: the pipelines of every model as of now, and when they are looked for again.

Engines that come or go count at once: what led through a lost one is gone, and where few engines
are to be searched the rest is found at once, too. Larger searches are done in small steps by
`work`, between requests; until one ends, what stands is used. Does not know: requests, queues.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest

from shoal_common.clock import Clock
from shoal_router.fleet_view import FleetView
from shoal_router.flow import Fleet, FlowOptions, pipelines_of, searching
from shoal_router.pipeline import Engine, Pipeline, Times, by_revision
from shoal_router.privacy import Demand

log = logging.getLogger(__name__)

# Measured times are looked at again this often when no engine comes or goes.
MEASURED_FOR_S = 1.0
# Engines of a model that are searched at once: some 20 ms, and far less for the usual handful.
AT_ONCE_MAX = 12
# What is found of more engines until the whole search is done.
QUICK_COUNT = 4
# Measured times that move by less do not change what is best by much.
DRIFT = 1.15
DEMANDS_MAX = 64
# Sets of engines whose revision is remembered, far more than stand at once.
REVISIONS_MAX = 4096
STANDBYS_PER_STAGE = 2

OPEN = Demand()
Parts = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class FormationOptions:
    """search_s: how often pipelines are looked for again when times have moved."""

    flow: FlowOptions = field(default_factory=FlowOptions)
    search_s: float = 5.0


@dataclass(slots=True)
class _Model:
    """What is known of one model. searched: the engines' times as of the last search."""

    engines: tuple[Engine, ...] = ()
    times: Times | None = None
    pipelines: dict[Demand, tuple[Pipeline, ...]] = field(default_factory=dict)
    searched: dict[str, int] = field(default_factory=dict)
    searched_at_s: float = 0.0
    is_due: bool = False


class Formation:
    """Invariant: pipelines name living engines only, as of the last `look`."""

    def __init__(self, view: FleetView, clock: Clock, options: FormationOptions) -> None:
        self._view = view
        self._clock = clock
        self._options = options
        self._models: dict[str, _Model] = {}
        self._revisions = 0
        self._revision_of: OrderedDict[Parts, int] = OrderedDict()
        # Found since engines last came or went.
        self._standbys: dict[tuple[object, ...], tuple[tuple[Engine, ...], ...]] = {}
        self._seen_version = -1
        self._measured_until_s = 0.0
        self._silent_at_s = 0.0

    @property
    def is_wrong(self) -> bool:
        """Engines have come or gone, or fallen silent."""
        return (
            self._view.version != self._seen_version or self._clock.monotonic() >= self._silent_at_s
        )

    @property
    def is_stale(self) -> bool:
        """It is wrong, or measured times are old."""
        return self.is_wrong or self._clock.monotonic() >= self._measured_until_s

    def look(self) -> None:
        """Takes in the engines of now."""
        by_model: dict[str, list[Engine]] = {}
        for engine in self._view.engines():
            by_model.setdefault(engine.model, []).append(engine)
        for name in self._models.keys() - by_model.keys():
            del self._models[name]
        for name, engines in by_model.items():
            self._take_in(self._models.setdefault(name, _Model()), tuple(engines))
        self._seen_version = self._view.version
        self._measured_until_s = self._clock.monotonic() + MEASURED_FOR_S
        self._silent_at_s = self._view.next_change_s()

    async def work(self) -> bool:
        """Does the searches that are due, and lets others have their turn in between.

        True if there were any.
        """
        worked = False
        for name in [name for name, model in self._models.items() if model.is_due]:
            model = self._models.get(name)
            if model is None:
                continue
            worked, model.is_due = True, False
            fleet = Fleet(model.engines, self._view.rtt_us)
            search = searching(fleet, self._options.flow, model.pipelines.get(OPEN, ()))
            while True:
                try:
                    next(search)
                except StopIteration as done:
                    found: tuple[Pipeline, ...] = done.value
                    break
                await asyncio.sleep(0)
            if self._models.get(name) is model:
                self._searched(model, fleet.engines, found)
        return worked

    def models(self) -> tuple[str, ...]:
        return tuple(self._models)

    def of(self, name: str, demand: Demand = OPEN) -> tuple[Pipeline, ...]:
        """The pipelines of a model that do what a driver asks for; the default ones if all do."""
        model = self._models.get(name)
        if model is None:
            return ()
        if demand.is_open:
            return model.pipelines.get(OPEN, ())
        if demand not in model.pipelines:
            while len(model.pipelines) > DEMANDS_MAX:
                del model.pipelines[next(d for d in model.pipelines if d != OPEN)]
            model.pipelines[demand] = self._private(model, demand, ())
        return model.pipelines[demand]

    def all_of(self, name: str) -> tuple[Pipeline, ...]:
        """The default pipelines and those for drivers who have asked for something."""
        model = self._models.get(name)
        if model is None:
            return ()
        found = {p.parts: p for p in model.pipelines.get(OPEN, ())}
        for pipelines in model.pipelines.values():
            for pipeline in pipelines:
                found.setdefault(pipeline.parts, pipeline)
        return tuple(found.values())

    def engines(self, name: str) -> tuple[Engine, ...]:
        model = self._models.get(name)
        return model.engines if model is not None else ()

    def family(self, name: str) -> tuple[Engine, ...]:
        """The engines of the revision that is served, or that is nearest to it."""
        families = by_revision(self.engines(name))
        served = {p.stages[0].revision for p in self.of(name)}
        candidates = [f for f in families if not served or f[0].revision in served]
        return candidates[0] if candidates else ()

    def times(self, name: str) -> Times:
        model = self._models.get(name)
        if model is None or model.times is None:
            return Times.of((), self._options.flow.costs, self._view.rtt_us)
        return model.times

    def standbys(self, pipeline: Pipeline, demand: Demand) -> tuple[tuple[Engine, ...], ...]:
        """By stage, engines that could take its place, the fastest first."""
        key = (pipeline.parts, demand)
        if key not in self._standbys:
            self._standbys[key] = self._found_standbys(pipeline, demand)
        return self._standbys[key]

    def _found_standbys(self, pipeline: Pipeline, demand: Demand) -> tuple[tuple[Engine, ...], ...]:
        times = self.times(pipeline.model)
        used = set(pipeline.incarnations)
        able = [e for e in self.engines(pipeline.model) if e.incarnation not in used]
        found = []
        for index, stage in enumerate(pipeline.stages):
            held = demand.standbys(index, len(pipeline.stages), (e for e in able if e.holds(stage)))
            best = nsmallest(
                STANDBYS_PER_STAGE,
                held,
                key=lambda e: (times.layer_us(e), e.node_id, e.incarnation),
            )
            found.append(tuple(e.part(stage.layer_start, stage.layer_stop) for e in best))
        return tuple(found)

    def _take_in(self, model: _Model, engines: tuple[Engine, ...]) -> None:
        is_same = {_identity(e) for e in engines} == {_identity(e) for e in model.engines}
        model.engines = engines
        model.times = Times.of(engines, self._options.flow.costs, self._view.rtt_us)
        for demand, pipelines in list(model.pipelines.items()):
            model.pipelines[demand] = self._current(model, pipelines)
            if demand != OPEN and not (is_same and model.pipelines[demand]):
                # Looked for again when somebody asks.
                del model.pipelines[demand]
        if not is_same:
            self._standbys.clear()
        if is_same and not self._has_drifted(model):
            return
        if len(engines) <= AT_ONCE_MAX:
            self._search(model, self._options.flow)
            return
        model.is_due = True
        if not model.pipelines.get(OPEN):
            quick = replace(self._options.flow, count_max=QUICK_COUNT, rounds_max=0)
            self._search(model, quick)

    def _search(self, model: _Model, flow: FlowOptions) -> None:
        fleet = Fleet(model.engines, self._view.rtt_us)
        found = pipelines_of(fleet, flow, model.pipelines.get(OPEN, ()))
        self._searched(model, model.engines, found)

    def _searched(
        self, model: _Model, engines: Sequence[Engine], found: tuple[Pipeline, ...]
    ) -> None:
        model.pipelines[OPEN] = self._numbered(self._current(model, found))
        model.searched = {e.incarnation: e.layer_time_us for e in engines}
        model.searched_at_s = self._clock.monotonic()
        for demand, pipelines in model.pipelines.items():
            if demand != OPEN:
                model.pipelines[demand] = self._private(model, demand, pipelines)

    def _private(
        self, model: _Model, demand: Demand, running: tuple[Pipeline, ...]
    ) -> tuple[Pipeline, ...]:
        """Pipelines of those engines alone that may see the prompt."""
        inside = tuple(e for e in model.engines if demand.admits(e))
        if len(inside) == len(model.engines) and not demand.is_boomerang:
            return model.pipelines.get(OPEN, ())
        flow = self._options.flow
        if len(inside) > AT_ONCE_MAX:
            flow = replace(flow, count_max=QUICK_COUNT, rounds_max=0)
        fleet = Fleet(inside, self._view.rtt_us, demand.ends)
        return self._numbered(pipelines_of(fleet, flow, running))

    def _current(self, model: _Model, pipelines: Sequence[Pipeline]) -> tuple[Pipeline, ...]:
        """Those whose engines all live, with the times of now."""
        by_incarnation = {e.incarnation: e for e in model.engines}
        current = []
        for pipeline in pipelines:
            engines = [by_incarnation.get(s.incarnation) for s in pipeline.stages]
            stages = tuple(
                engine.part(s.layer_start, s.layer_stop)
                for engine, s in zip(engines, pipeline.stages, strict=True)
                if engine is not None and engine.holds(s)
            )
            if len(stages) == len(pipeline.stages):
                assert model.times is not None
                time_us = model.times.step_us(stages)
                current.append(replace(pipeline, stages=stages, time_us=time_us))
        return tuple(current)

    def _has_drifted(self, model: _Model) -> bool:
        if self._clock.monotonic() < model.searched_at_s + self._options.search_s:
            return False
        for engine in model.engines:
            before = model.searched.get(engine.incarnation, 0)
            now = engine.layer_time_us
            if max(before, now) > DRIFT * min(before, now):
                return True
        return False

    def _numbered(self, pipelines: Sequence[Pipeline]) -> tuple[Pipeline, ...]:
        """With revisions: a new one for every set of engines that was not there before."""
        numbered = []
        for pipeline in pipelines:
            parts = pipeline.parts
            if parts not in self._revision_of:
                self._revision_of[parts] = self._new_revision(pipeline)
            self._revision_of.move_to_end(parts)
            numbered.append(replace(pipeline, revision=self._revision_of[parts]))
        while len(self._revision_of) > REVISIONS_MAX:
            self._revision_of.popitem(last=False)
        return tuple(numbered)

    def _new_revision(self, pipeline: Pipeline) -> int:
        self._revisions += 1
        log.info(
            "pipeline formed",
            extra={
                "pipeline_id": pipeline.pipeline_id,
                "model": pipeline.model,
                "stages": [f"{s.node_id}@{s.layer_start}:{s.layer_stop}" for s in pipeline.stages],
            },
        )
        return self._revisions


def _identity(engine: Engine) -> tuple[object, ...]:
    """What makes it another engine, whatever it has measured."""
    return (
        engine.incarnation,
        engine.revision,
        engine.layer_start,
        engine.layer_stop,
        engine.locator,
        engine.host_id,
        engine.reach,
    )
