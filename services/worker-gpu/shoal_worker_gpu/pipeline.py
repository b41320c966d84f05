"""One pipeline as its head drives it: its streams, and the steps in flight.

Owns the depth of flight and the progress deadline. Does not choose rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from shoal.worker.v1 import pipeline_pb2, stage_pb2
from shoal_common.clock import Clock
from shoal_worker_gpu.links import DownstreamLink
from shoal_worker_gpu.pipeline_name import pipeline_name
from shoal_worker_gpu.progress import ProgressDeadline
from shoal_worker_gpu.sequence import SequenceKey
from shoal_worker_gpu.step_cost import StepCost

_GRACE_S = 1.0


@dataclass(frozen=True)
class FlyingStep:
    """rows: position of the last token of each. sent_at: seconds of the clock."""

    step_id: int
    rows: Mapping[SequenceKey, int]
    sent_at: float
    decode_rows: int
    prompt_tokens: int

    @property
    def token_count(self) -> int:
        return self.decode_rows + self.prompt_tokens


class PipelineRun:
    """The head's side of one pipeline.

    step_ids: never the same twice in this process, so that a result which comes late, through
    whatever stream, is taken for no other step's. blocks_total: KV blocks of the stage that has the
    fewest, as far as is known.
    """

    def __init__(
        self, pipeline: pipeline_pb2.Pipeline, clock: Clock, step_ids: Iterator[int]
    ) -> None:
        self.name = pipeline_name(pipeline)
        self.stages = tuple(pipeline.stages)
        self.link: DownstreamLink | None = None
        self.local_step: int | None = None
        self.cost = StepCost()
        self.blocks_total = 0
        self._clock = clock
        self._flying: dict[int, FlyingStep] = {}
        self._step_ids = step_ids
        self._deadline = ProgressDeadline(pipeline.predicted_step_us / 1e6)

    @property
    def depth(self) -> int:
        return len(self.stages)

    @property
    def route(self) -> tuple[pipeline_pb2.PipelineStage, ...]:
        """The stages behind the head."""
        return self.stages[1:]

    @property
    def has_room(self) -> bool:
        """A step may start: the head's own stage is free and the pipeline is not full."""
        return self.local_step is None and len(self._flying) < self.depth

    def is_flying(self, step_id: int) -> bool:
        """The step's result is awaited."""
        return step_id in self._flying

    def launch(
        self, rows: Mapping[SequenceKey, int], *, decode_rows: int, prompt_tokens: int
    ) -> int:
        """Note a step as in flight; returns its id."""
        step_id = next(self._step_ids)
        now = self._clock.monotonic()
        self._flying[step_id] = FlyingStep(step_id, rows, now, decode_rows, prompt_tokens)
        self.local_step = step_id
        return step_id

    def left_head(self, step_id: int) -> None:
        """The head's own layers are done with the step."""
        if self.local_step == step_id:
            self.local_step = None

    def landed(
        self, step_id: int, timings: Iterable[stage_pb2.StageTiming] = ()
    ) -> FlyingStep | None:
        """The step's result has come. None when it is not known (any more)."""
        step = self._flying.pop(step_id, None)
        self.left_head(step_id)
        if step is not None:
            self._deadline.observe(self._clock.monotonic() - step.sent_at, step.token_count)
            slowest_us = max((timing.compute_us for timing in timings), default=0)
            if slowest_us:
                self.cost.observe(step.decode_rows, step.prompt_tokens, slowest_us)
        return step

    def prune(self, is_running: Callable[[SequenceKey], bool]) -> None:
        """Forget steps none of whose sequences goes on: a stage drops them without a result."""
        for step_id, step in list(self._flying.items()):
            if not any(is_running(key) for key in step.rows):
                del self._flying[step_id]
                self.left_head(step_id)

    def overdue_step(self) -> int | None:
        """The oldest step that is beyond its progress deadline; None when none is.

        A stage that hangs in a step tells of itself first, by name; this finds what told nothing.
        """
        now = self._clock.monotonic()
        for step in self._flying.values():
            allowed_s = _GRACE_S + self._deadline.allowed_s(step.token_count, self.depth)
            if now - step.sent_at > allowed_s:
                return step.step_id
        return None
