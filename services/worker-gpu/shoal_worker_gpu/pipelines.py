"""The pipelines that one head drives.

Owns which are open, their leases and their progress deadlines. Knows nothing of generations: who
uses a pipeline, and what follows from its loss, is the head's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator

from shoal.worker.v1 import pipeline_pb2, stage_pb2
from shoal_common.clock import Clock
from shoal_worker_gpu.links import LinkPool, Speaker
from shoal_worker_gpu.pipeline import PipelineRun
from shoal_worker_gpu.pipeline_name import PipelineName, pipeline_name, stage_name
from shoal_worker_gpu.progress import NO_PROGRESS

log = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 0.25
_OPEN_MAX = 16

OnStep = Callable[[PipelineName, stage_pb2.StepResult], None]
OnLost = Callable[[pipeline_pb2.PipelineStage, str], None]


class Pipelines:
    """Open pipelines by name."""

    def __init__(
        self, links: LinkPool, speaker: Speaker, clock: Clock, on_step: OnStep, on_lost: OnLost
    ) -> None:
        self._links = links
        self._speaker = speaker
        self._clock = clock
        self._on_step = on_step
        self._on_lost = on_lost
        self._runs: dict[PipelineName, PipelineRun] = {}

    def __iter__(self) -> Iterator[PipelineRun]:
        return iter(list(self._runs.values()))

    def get(self, name: PipelineName) -> PipelineRun | None:
        """The open pipeline of that name."""
        return self._runs.get(name)

    async def opened(
        self, pipeline: pipeline_pb2.Pipeline, used: Collection[PipelineName]
    ) -> PipelineRun:
        """Open a pipeline unless it is open; one not in `used` may be closed for it.

        Raises StageFailed when a stage cannot be reached.
        """
        name = pipeline_name(pipeline)
        run = self._runs.get(name)
        if run is None:
            await self._close_idle(used)
            run = self._runs[name] = PipelineRun(pipeline, self._clock)
        await run.open(
            self._links,
            self._speaker,
            on_step=lambda result: self._on_step(name, result),
            on_lost=self._on_lost,
        )
        return run

    def drop(self, stage: pipeline_pb2.PipelineStage) -> list[PipelineRun]:
        """Forget every pipeline behind whose head the stage stands; the caller closes them."""
        gone = stage_name(stage)
        return [self._runs.pop(name) for name in list(self._runs) if gone in name[2]]

    async def watch(self) -> None:
        """Report the last stage of a pipeline that makes no progress. Never returns."""
        while True:
            await self._clock.sleep(_WATCH_INTERVAL_S)
            for run in self:
                if run.overdue_s() > 0 and run.route:
                    suspect = run.stages[-1]
                    log.warning("step overdue", extra={"peer": suspect.node_id})
                    self._on_lost(suspect, NO_PROGRESS)

    async def renew_leases(self, incarnation: str, lease_s: float) -> None:
        """Tell the stages behind that this head lives. Never returns."""
        lease = stage_pb2.LinkRequest(lease=stage_pb2.Lease(head_incarnation=incarnation))
        while True:
            await self._clock.sleep(lease_s / 4)
            for run in self:
                if run.link is not None:
                    run.link.send(lease)

    async def close(self) -> None:
        """Let go of all results streams."""
        for run in self:
            await run.close()

    async def _close_idle(self, used: Collection[PipelineName]) -> None:
        idle = [name for name in self._runs if name not in used]
        for name in idle[: max(0, len(self._runs) - _OPEN_MAX + 1)]:
            await self._runs.pop(name).close()
