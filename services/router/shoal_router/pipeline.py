"""Owns: what a pipeline is, and the time that its steps are predicted to take. Pure.

Does not know: queues, requests, how pipelines are found. A stage is an engine narrowed to the
layers that it runs for this pipeline; stages meet end to end and cover [0, layer_count); all hold
the same revision and keep KV in blocks of one size; no engine is in a pipeline twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median_low

from shoal.worker.v1 import pipeline_pb2 as pb

# A prompt token in a long chunk takes less than one in a decode step: a guess at how much less, for
# engines that have computed no prompt yet.
PREFILL_SHARE = 1 / 8

RttOf = Callable[[str, str], int]
"""Measured round trip between two nodes in microseconds; 0 where nobody has measured it."""


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
    head_layers: float = 0.0
    """What comes behind the model's last layer, in layers; nothing for other ranges."""
    layer_prefill_ns: int = 0
    running_max: int = 0
    """Sequences it runs at once; 0 when it does not say."""
    kv_format: str = ""
    shares_prefixes: bool = False
    host_id: str = ""
    region: str = ""
    reach: pb.Reach = pb.REACH_UNSPECIFIED

    @property
    def is_whole(self) -> bool:
        return self.layer_start == 0 and self.layer_stop == self.layer_count

    @property
    def size(self) -> int:
        """Layers."""
        return self.layer_stop - self.layer_start

    @property
    def work(self) -> float:
        """Of one token's step, in layers."""
        return self.size + (self.head_layers if self.layer_stop == self.layer_count else 0.0)

    def part(self, layer_start: int, layer_stop: int) -> Engine:
        """The same engine, of which only these layers are used."""
        assert self.layer_start <= layer_start < layer_stop <= self.layer_stop
        if (layer_start, layer_stop) == (self.layer_start, self.layer_stop):
            return self
        return replace(self, layer_start=layer_start, layer_stop=layer_stop)

    def holds(self, stage: Engine) -> bool:
        """True when it could run a stage's layers."""
        return (
            (self.model, self.revision) == (stage.model, stage.revision)
            and self.block_size_tokens == stage.block_size_tokens
            and self.layer_start <= stage.layer_start
            and stage.layer_stop <= self.layer_stop
        )


@dataclass(frozen=True, slots=True)
class Costs:
    """What a step costs where nothing was measured, in microseconds."""

    layer_time_us: int = 2000
    """A layer of an engine that has run no step, when no other engine of the model has either."""
    link_us: int = 1000
    """A hop to another node."""
    local_link_us: int = 200
    """A hop to an engine of the same machine."""
    far_link_us: int = 40_000
    """A hop to a node of another region."""
    visit_us: int = 50
    """Of an engine's own time: taking a step in and handing it on; not where it runs them all."""


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
    def parts(self) -> tuple[tuple[str, int, int], ...]:
        """What it is made of: engine processes and the layers of each."""
        return tuple((s.incarnation, s.layer_start, s.layer_stop) for s in self.stages)

    @property
    def model(self) -> str:
        return self.stages[0].model

    @property
    def context_length(self) -> int:
        """The shortest of the stages'; 0 when none says."""
        return min((s.context_length for s in self.stages if s.context_length), default=0)


def nobody_measured(source: str, target: str) -> int:
    """An RttOf of a fleet whose workers have not met."""
    return 0


@dataclass(frozen=True, slots=True)
class Times:
    """Predicted times of the engines of one model: measured ones, else what is typical."""

    costs: Costs
    typical_layer_us: int
    typical_prefill_ns: int
    rtt_us: RttOf = nobody_measured

    @classmethod
    def of(cls, engines: Iterable[Engine], costs: Costs, rtt_us: RttOf = nobody_measured) -> Times:
        engines = tuple(engines)
        measured = [e.layer_time_us for e in engines if e.layer_time_us]
        layer_us = median_low(measured) if measured else costs.layer_time_us
        prefills = [e.layer_prefill_ns for e in engines if e.layer_prefill_ns]
        prefill_ns = median_low(prefills) if prefills else round(layer_us * 1000 * PREFILL_SHARE)
        return cls(costs, layer_us, prefill_ns, rtt_us)

    def layer_us(self, engine: Engine) -> int:
        """One layer's share of a decode step."""
        return engine.layer_time_us or self.typical_layer_us

    def stage_us(self, stage: Engine) -> float:
        """What one token's step takes of the engine's time."""
        visit_us = 0 if stage.is_whole else self.costs.visit_us
        return visit_us + stage.work * self.layer_us(stage)

    def prefill_ns(self, engine: Engine) -> int:
        """One layer's time for one prompt token."""
        return engine.layer_prefill_ns or self.typical_prefill_ns

    def hop_us(self, source: Engine, target: Engine) -> int:
        """One way between two engines."""
        costs = self.costs
        if source.node_id == target.node_id:
            return costs.local_link_us
        if source.host_id and source.host_id == target.host_id:
            return costs.local_link_us
        rtt_us = self.rtt_us(source.node_id, target.node_id)
        if rtt_us:
            return max(1, rtt_us // 2)
        if source.region and target.region and source.region != target.region:
            return costs.far_link_us
        return costs.link_us

    def hops_us(self, stages: Sequence[Engine]) -> int:
        """All hops of a step; the last one takes the token back to the head."""
        if len(stages) == 1:
            return 0
        return sum(self.hop_us(a, b) for a, b in pairwise((*stages, stages[0])))

    def step_us(self, stages: Sequence[Engine]) -> int:
        """One decode step on idle engines."""
        return self.hops_us(stages) + round(sum(map(self.stage_us, stages)))


def order(pipeline: Pipeline) -> tuple[object, ...]:
    """Single machines, then the faster, then those of fewer stages, then by name, so that equal
    fleets give equal plans."""
    names = tuple((s.node_id, s.incarnation, s.layer_start) for s in pipeline.stages)
    count = len(pipeline.stages)
    return (count > 1, pipeline.time_us, count, names)


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
