"""Owns: which engines serve a model together, as a pure function of what they say of themselves.

Does not know: time, queues, requests. An engine's whole range is one stage; the ranges of a
pipeline meet end to end and cover [0, layer_count); all stages hold the same revision and
keep KV in blocks of one size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

# What a slower pipeline that already runs must lose by before a faster one takes its place:
# measured times wander by some percent, and requests batch only if pipelines stay.
KEEP_UNLESS_SLOWER = 1.25


@dataclass(frozen=True, slots=True)
class Engine:
    """A ready engine child: layers [layer_start, layer_stop) of one revision, on one node."""

    node_id: str
    incarnation: str
    model: str
    revision: str
    layer_start: int
    layer_stop: int
    layer_count: int
    locator: str
    block_size_tokens: int = 16
    context_length: int = 0
    layer_time_us: int = 0
    running_max: int = 0
    """Sequences it runs at once; 0 when it does not say."""

    @property
    def is_whole(self) -> bool:
        return self.layer_start == 0 and self.layer_stop == self.layer_count


@dataclass(frozen=True, slots=True)
class Costs:
    """What a step costs where nothing was measured, in microseconds."""

    layer_time_us: int = 2000
    """A layer of an engine that has run no step, when no other engine of the model has either."""
    link_us: int = 1000
    """A hop to another node."""
    local_link_us: int = 200
    """A hop to an engine of the same node."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages in order; `time_us` is the predicted time of one decode step through all of them."""

    stages: tuple[Engine, ...]
    time_us: int
    revision: int = 0
    """Set by the planner: grows when engines behind the same `pipeline_id` change."""
    weight: float = 0.0
    """Its share of the model's requests when all pipelines are full, 0 to 1."""
    steps_per_s: float = 0.0
    """What it carries then, one token each."""

    @property
    def pipeline_id(self) -> str:
        """The same for the same nodes and ranges, across restarts of their engines."""
        parts = [self.stages[0].model, self.stages[0].revision]
        parts += [f"{s.node_id}@{s.layer_start}:{s.layer_stop}" for s in self.stages]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()

    @property
    def incarnations(self) -> tuple[str, ...]:
        return tuple(stage.incarnation for stage in self.stages)

    @property
    def model(self) -> str:
        return self.stages[0].model

    @property
    def context_length(self) -> int:
        """The shortest of the stages'; 0 when none says."""
        return min((s.context_length for s in self.stages if s.context_length), default=0)


def missing_ranges(held: Iterable[range], layer_count: int) -> tuple[range, ...]:
    """The parts of [0, layer_count) that no range covers, in order."""
    missing: list[range] = []
    position = 0
    for layers in sorted(held, key=lambda r: (r.start, r.stop)):
        if layers.start > position:
            missing.append(range(position, layers.start))
        position = max(position, layers.stop)
    if position < layer_count:
        missing.append(range(position, layer_count))
    return tuple(missing)


def by_revision(engines: Iterable[Engine]) -> tuple[tuple[Engine, ...], ...]:
    """Engines of one model parted by revision; first the one that lacks the fewest layers, then
    the one with the most engines.

    During a roll-out the new revision takes over once it covers every layer with more engines.
    """
    families: dict[tuple[str, int], list[Engine]] = {}
    for engine in engines:
        families.setdefault((engine.revision, engine.layer_count), []).append(engine)

    def rank(family: Sequence[Engine]) -> tuple[int, int, str]:
        held = (range(e.layer_start, e.layer_stop) for e in family)
        lacking = sum(len(layers) for layers in missing_ranges(held, family[0].layer_count))
        return (lacking, -len(family), family[0].revision)

    return tuple(tuple(family) for family in sorted(families.values(), key=rank))


def pipelines_of(
    engines: Sequence[Engine],
    costs: Costs,
    *,
    count_max: int,
    running: Sequence[Pipeline] = (),
) -> tuple[Pipeline, ...]:
    """At most `count_max` pipelines that share no engine, the best first.

    engines: of one model. running: the pipelines of before; one that still stands is kept unless
    it is slower than KEEP_UNLESS_SLOWER times the fastest. Single machines come before chains.
    """
    for family in by_revision(engines):
        found = _pipelines(family, costs, count_max, running)
        if found:
            return found
    return ()


def _pipelines(
    family: Sequence[Engine], costs: Costs, count_max: int, running: Sequence[Pipeline]
) -> tuple[Pipeline, ...]:
    left = set(family)
    fallback_us = _typical_layer_time(left, costs)
    chosen: list[Pipeline] = []
    while len(chosen) < count_max:
        fresh = _best(left, costs, fallback_us)
        if fresh is None:
            break
        pipeline = _kept(running, fresh, left, costs, fallback_us) or fresh
        chosen.append(pipeline)
        left.difference_update(pipeline.stages)
    return tuple(chosen)


def _typical_layer_time(engines: Iterable[Engine], costs: Costs) -> int:
    measured = [e.layer_time_us for e in engines if e.layer_time_us]
    return median_low(measured) if measured else costs.layer_time_us


def _engine_time(engine: Engine, fallback_us: int) -> int:
    return (engine.layer_stop - engine.layer_start) * (engine.layer_time_us or fallback_us)


def _hop_time(source: Engine, target: Engine, costs: Costs) -> int:
    return costs.local_link_us if source.node_id == target.node_id else costs.link_us


def _time(stages: Sequence[Engine], costs: Costs, fallback_us: int) -> int:
    hops = sum(_hop_time(a, b, costs) for a, b in pairwise(stages))
    return hops + sum(_engine_time(stage, fallback_us) for stage in stages)


def _best(engines: Collection[Engine], costs: Costs, fallback_us: int) -> Pipeline | None:
    whole = [Pipeline((e,), _engine_time(e, fallback_us)) for e in engines if e.is_whole]
    if whole:
        return min(whole, key=_order)
    block_sizes = {e.block_size_tokens for e in engines}
    alike = ([e for e in engines if e.block_size_tokens == size] for size in block_sizes)
    chains = [_fastest_chain(part, costs, fallback_us) for part in alike]
    return min(filter(None, chains), key=_order, default=None)


def _order(pipeline: Pipeline) -> tuple[object, ...]:
    """Faster first, then fewer stages, then by name, so that equal fleets give equal plans."""
    names = tuple((s.node_id, s.incarnation) for s in pipeline.stages)
    return (pipeline.time_us, len(pipeline.stages), names)


def _fastest_chain(engines: Iterable[Engine], costs: Costs, fallback_us: int) -> Pipeline | None:
    """Shortest path over layer positions.

    Per position it suffices to keep the best chain that ends there, and the best for each node it
    may end on, because a hop costs only whether it leaves the node.
    """
    best: dict[int, Pipeline] = {}
    best_on: dict[tuple[int, str], Pipeline] = {}
    layer_count = 0
    for engine in sorted(engines, key=lambda e: (e.layer_start, e.layer_stop, e.node_id)):
        layer_count = engine.layer_count
        heads: list[tuple[Engine, ...]] = [()] if engine.layer_start == 0 else []
        for found in (
            best.get(engine.layer_start),
            best_on.get((engine.layer_start, engine.node_id)),
        ):
            heads += [found.stages] if found else []
        for head in heads:
            stages = (*head, engine)
            chain = Pipeline(stages, _time(stages, costs, fallback_us))
            stop, node = engine.layer_stop, (engine.layer_stop, engine.node_id)
            best[stop] = min(best.get(stop, chain), chain, key=_order)
            best_on[node] = min(best_on.get(node, chain), chain, key=_order)
    return best.get(layer_count)


def _kept(
    running: Sequence[Pipeline],
    fresh: Pipeline,
    left: set[Engine],
    costs: Costs,
    fallback_us: int,
) -> Pipeline | None:
    """The fastest pipeline of before that still stands and is nearly as good as `fresh`."""
    by_incarnation = {e.incarnation: e for e in left}
    standing: list[Pipeline] = []
    for old in running:
        stages = tuple(by_incarnation[i] for i in old.incarnations if i in by_incarnation)
        replaces_whole = len(stages) > 1 and len(fresh.stages) == 1
        if len(stages) != len(old.stages) or replaces_whole:
            continue
        standing.append(Pipeline(stages, _time(stages, costs, fallback_us)))
    limit_us = fresh.time_us * KEEP_UNLESS_SLOWER
    return min((p for p in standing if p.time_us <= limit_us), key=_order, default=None)
