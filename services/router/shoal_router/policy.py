"""Owns: which of a model's pipelines a request goes to. Pure but for what it remembers of sessions.

The least cost wins: the predicted time of prompt and answer on stages as they are loaded, less what
held prefixes save. Pipelines far above their share of the load are left out before. Does not know:
how pipelines are found, who waits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal_router.pipeline import Pipeline, Times
from shoal_router.prefix_index import PrefixIndex
from shoal_router.request import Request
from shoal_router.sessions import Sessions, session_key

# Answers end when they end: beyond this many tokens a limit says little of their length.
TOKENS_EXPECTED_MAX = 256


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """A pipeline is left out when one of its engines carries more than `spread_factor` times its
    share of the plans in flight and at least `spread_count` plans more.

    row_cost: what one more sequence in a batch adds to a decode step, in steps of a single one:
    all weights are read once for all of them (0.07 to 0.1 for int8 on a CPU).
    """

    spread_count: int = 8
    spread_factor: float = 1.5
    row_cost: float = 0.125


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a request would meet on a pipeline. Times are as predicted under the load of now."""

    pipeline: Pipeline
    plan_count: int
    step_us: int
    held_token_count: int
    cost_us: float
    is_crowded: bool

    @property
    def rank(self) -> tuple[bool, float]:
        """The least is taken; of equals the first."""
        return (self.is_crowded, self.cost_us)


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate that is taken, and why."""

    candidate: Candidate
    reason: str

    @property
    def pipeline(self) -> Pipeline:
        return self.candidate.pipeline


class Policy:
    """plans_on: plans in flight by engine incarnation. times_of: predicted times of a model."""

    def __init__(
        self,
        index: PrefixIndex,
        sessions: Sessions,
        plans_on: Callable[[str], int],
        times_of: Callable[[str], Times],
        options: PolicyOptions,
    ) -> None:
        self._index = index
        self._sessions = sessions
        self._plans_on = plans_on
        self._times_of = times_of
        self._options = options

    def choose(self, request: Request, pipelines: Sequence[Pipeline]) -> Choice | None:
        """Where the request goes; None without pipelines. Remembers nothing."""
        candidates = self.candidates(request, pipelines)
        if not candidates:
            return None
        if request.session_id:
            last_id = self._sessions.pipeline_id(_session(request))
            for candidate in candidates:
                if candidate.pipeline.pipeline_id == last_id and not candidate.is_crowded:
                    return Choice(candidate, "its session went there before")
        return Choice(min(candidates, key=lambda c: c.rank), "costs least")

    def went(self, request: Request, choice: Choice) -> None:
        """The request goes there now: so will its session, and what it reuses stays known."""
        pipeline = choice.pipeline
        if request.session_id:
            self._sessions.went(_session(request), pipeline.pipeline_id)
        count = choice.candidate.held_token_count // _block_size(pipeline)
        self._index.use(pipeline, request.prefix_block_hashes[:count])

    def candidates(self, request: Request, pipelines: Sequence[Pipeline]) -> tuple[Candidate, ...]:
        """What the request would meet on each of the pipelines, in their order."""
        if not pipelines:
            return ()
        times = self._times_of(request.model)
        crowded = self._crowded(pipelines)
        return tuple(
            self._candidate(request, pipeline, times, not crowded.isdisjoint(pipeline.incarnations))
            for pipeline in pipelines
        )

    def _crowded(self, pipelines: Sequence[Pipeline]) -> set[str]:
        """Engines far above their share, by incarnation.

        An engine's share of the plans in flight is that of the pipelines through it, by the flow
        they were found for; by their speed where the flow leads through none of them.
        """
        weights = [p.weight for p in pipelines]
        if not any(weights):
            weights = [1 / max(1, p.time_us) for p in pipelines]
        shares: defaultdict[str, float] = defaultdict(float)
        for pipeline, weight in zip(pipelines, weights, strict=True):
            for incarnation in pipeline.incarnations:
                shares[incarnation] += weight / sum(weights)
        heads = {p.stages[0].incarnation for p in pipelines}
        total = sum(map(self._plans_on, heads))
        factor, count = self._options.spread_factor, self._options.spread_count
        return {
            incarnation
            for incarnation, share in shares.items()
            if (carried := self._plans_on(incarnation)) > total * share * factor
            and carried >= total * share + count
        }

    def _candidate(
        self,
        request: Request,
        pipeline: Pipeline,
        times: Times,
        is_crowded: bool,
    ) -> Candidate:
        """A plan in flight takes of a stage's time what the stage takes of a step: a chain of two
        equal stages slows half as fast as a single machine."""
        step_us = float(times.hops_us(pipeline.stages))
        prefill_ns = 0.0
        idle_us = max(1, times.step_us(pipeline.stages))
        for stage in pipeline.stages:
            stage_us = times.stage_us(stage)
            rivals = self._plans_on(stage.incarnation) * stage_us / idle_us
            step_us += stage_us * (1 + self._options.row_cost * rivals)
            prefill_ns += stage.size * times.prefill_ns(stage) * (1 + rivals)
        held = self._held_token_count(request, pipeline)
        prompt_us = (request.prompt_token_count - held) * prefill_ns / 1000
        token_count = min(request.max_tokens or TOKENS_EXPECTED_MAX, TOKENS_EXPECTED_MAX)
        cost_us = prompt_us + token_count * step_us
        plan_count = max(map(self._plans_on, pipeline.incarnations))
        return Candidate(pipeline, plan_count, round(step_us), held, cost_us, is_crowded)

    def _held_token_count(self, request: Request, pipeline: Pipeline) -> int:
        if not request.prefix_block_hashes:
            return 0
        count = self._index.held_count(pipeline, request.prefix_block_hashes)
        return min(count * _block_size(pipeline), max(0, request.prompt_token_count - 1))


def _block_size(pipeline: Pipeline) -> int:
    return max(1, pipeline.stages[0].block_size_tokens)


def _session(request: Request) -> str:
    return session_key(request.tenant, request.model, request.session_id)
