"""This router's own decisions on a random fleet: the functions that run in production."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from bench.routing.fleets import Path, RandomFleet
from shoal_common.clock import SystemClock
from shoal_router.flow import Fleet, FlowOptions, pipelines_of
from shoal_router.pipeline import Costs, Engine, Pipeline, Times
from shoal_router.placement import Goal, PlacedRange, place
from shoal_router.policy import Choice, Policy, PolicyOptions
from shoal_router.prefix_index import PrefixIndex
from shoal_router.request import Request
from shoal_router.sessions import NoStore, Sessions

PIPELINES_MAX = 16
MODEL = "model"
# Of a layer's time in a decode step: what a prompt token in a long chunk takes.
PREFILL_SHARE = 1 / 20
BLOCKS_MAX = 2_000_000


@dataclass(frozen=True)
class Ours:
    """Ranges as `place` has chosen them, or as they are given, and the pipelines through them."""

    fleet: RandomFleet
    ranges: tuple[PlacedRange, ...]

    @classmethod
    def placed(cls, fleet: RandomFleet) -> Ours:
        chosen = place(fleet.shape, fleet.machines, fleet.links, Goal.SPREAD).chosen
        assert chosen is not None, f"fleet {fleet.seed} cannot serve"
        return cls(fleet, chosen.ranges)

    @cached_property
    def engines(self) -> tuple[Engine, ...]:
        return tuple(engine_of(self.fleet, placed) for placed in self.ranges)

    @cached_property
    def pipelines(self) -> tuple[Pipeline, ...]:
        options = FlowOptions(count_max=PIPELINES_MAX, costs=self._costs)
        return pipelines_of(Fleet(self.engines, self._rtt_us), options)

    @cached_property
    def times(self) -> Times:
        return Times.of(self.engines, self._costs, self._rtt_us)

    @property
    def shares(self) -> dict[Path, float]:
        """How much of the requests each pipeline is meant to carry."""
        return {path_of(p): p.weight for p in self.pipelines if p.weight}

    @property
    def _costs(self) -> Costs:
        return Costs(visit_us=round(self.fleet.links.visit_us))

    def policy(self) -> LoadPolicy:
        return LoadPolicy(self)

    def _rtt_us(self, source: str, target: str) -> int:
        rtt_us = self.fleet.links.rtt_us
        return round(rtt_us.get((source, target)) or rtt_us.get((target, source)) or 0)


class LoadPolicy:
    """`policy.Policy` where plans in flight are those that the simulation says run."""

    def __init__(self, ours: Ours) -> None:
        self._pipelines = {path_of(p): p for p in ours.pipelines}
        self._on: Counter[str] = Counter()
        self.index = PrefixIndex(BLOCKS_MAX)
        sessions = Sessions(SystemClock(), NoStore(), ttl_s=600, count_max=100_000)
        self.policy = Policy(
            self.index, sessions, self._on.__getitem__, lambda _: ours.times, PolicyOptions()
        )

    def __call__(self, running: Counter[Path]) -> Path | None:
        self._on.clear()
        for path, count in running.items():
            for incarnation in self._pipelines[path].incarnations:
                self._on[incarnation] += count
        choice = self.policy.choose(Request("r", MODEL), tuple(self._pipelines.values()))
        return path_of(choice.pipeline) if choice else None

    def decide(self, request: Request, running: Counter[str]) -> Choice:
        """For one request, with `running` plans on each engine; its session is remembered."""
        self._on.clear()
        self._on.update(running)
        choice = self.policy.choose(request, tuple(self._pipelines.values()))
        assert choice is not None, "the fleet has pipelines"
        self.policy.went(request, choice)
        return choice


def engine_of(fleet: RandomFleet, placed: PlacedRange) -> Engine:
    """As a worker's beat tells it."""
    machine = fleet.by_id[placed.node_id]
    return Engine(
        node_id=placed.node_id,
        incarnation=f"{placed.node_id}@{placed.layer_start}",
        model=MODEL,
        revision="r1",
        layer_start=placed.layer_start,
        layer_stop=placed.layer_stop,
        layer_count=fleet.shape.layer_count,
        locator=machine.locator,
        layer_time_us=max(1, round(machine.layer_us)),
        layer_prefill_ns=max(1, round(machine.layer_us * 1000 * PREFILL_SHARE)),
        head_layers=fleet.shape.head_layers,
        host_id=machine.host_id,
        region=machine.region,
    )


def path_of(pipeline: Pipeline) -> Path:
    return tuple(PlacedRange(s.node_id, s.layer_start, s.layer_stop) for s in pipeline.stages)
