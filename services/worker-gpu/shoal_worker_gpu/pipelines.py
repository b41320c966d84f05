"""The pipelines that one head drives.

Owns which are open, the streams of results, leases and progress deadlines. Knows nothing of
generations: who uses a pipeline, and what follows from its loss, is the head's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Iterator

from shoal.worker.v1 import pipeline_pb2, stage_pb2
from shoal_common.clock import Clock
from shoal_common.errors import StageFailed
from shoal_worker_gpu.links import LinkPool, ResultsReader, Speaker
from shoal_worker_gpu.pipeline import PipelineRun
from shoal_worker_gpu.pipeline_name import PipelineName, StageName, pipeline_name, stage_name
from shoal_worker_gpu.progress import NO_PROGRESS

log = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 0.25
_OPEN_MAX = 16

OnStep = Callable[[stage_pb2.StepResult], None]
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
        self._readers: dict[StageName, ResultsReader] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._step_ids = itertools.count(1)

    def __iter__(self) -> Iterator[PipelineRun]:
        return iter(list(self._runs.values()))

    def get(self, name: PipelineName) -> PipelineRun | None:
        """The open pipeline of that name."""
        return self._runs.get(name)

    def of_step(self, step_id: int) -> PipelineRun | None:
        """The pipeline that awaits the step's result."""
        return next((run for run in self if run.is_flying(step_id)), None)

    async def opened(
        self, pipeline: pipeline_pb2.Pipeline, used: Collection[PipelineName]
    ) -> PipelineRun:
        """Open a pipeline unless it is open; one not in `used` may be closed for it.

        Raises StageFailed when a stage cannot be reached.
        """
        name = pipeline_name(pipeline)
        run = self._runs.get(name)
        if run is None:
            self._close_idle(used)
            run = self._runs[name] = PipelineRun(pipeline, self._clock, self._step_ids)
        if run.route:
            if run.link is None or run.link.is_lost:
                run.link = await self._links.get(run.route[0])
            await self._reading(run.stages[-1])
        if self._runs.get(name) is not run:
            raise StageFailed(run.stages[-1].node_id, "a stage was lost while it was dialled")
        return run

    def drop(self, stage: pipeline_pb2.PipelineStage) -> None:
        """Forget every pipeline behind whose head the stage stands."""
        gone = stage_name(stage)
        for name in [name for name in self._runs if gone in name[2]]:
            del self._runs[name]
        self._close_readers()

    async def watch(self) -> None:
        """Report who keeps a pipeline from making progress. Never returns.

        The head itself, while a step has not left it; else the last stage, as those between tell
        of themselves.
        """
        while True:
            await self._clock.sleep(_WATCH_INTERVAL_S)
            for run in self:
                if run.route and (step_id := run.overdue_step()) is not None:
                    suspect = run.stages[0 if step_id == run.local_step else -1]
                    log.warning("step overdue", extra={"diag": "progress", "peer": suspect.node_id})
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
        self._runs.clear()
        self._close_readers()
        await asyncio.gather(*self._closing)

    async def _reading(self, stage: pipeline_pb2.PipelineStage) -> None:
        """Have the results of a last stage: one stream, whichever pipelines end there."""
        name = stage_name(stage)
        reader = self._readers.get(name)
        if reader is None or reader.is_lost:
            reader = ResultsReader(stage, self._speaker, self._on_step, self._on_lost)
            self._readers[name] = reader
        try:
            await reader.ready()
        except BaseException:
            self._let_go(name)
            raise

    def _close_idle(self, used: Collection[PipelineName]) -> None:
        idle = [name for name in self._runs if name not in used]
        for name in idle[: max(0, len(self._runs) - _OPEN_MAX + 1)]:
            del self._runs[name]
        self._close_readers()

    def _close_readers(self) -> None:
        """Close the streams of last stages that no open pipeline leads to."""
        needed = {name[2][-1] for name in self._runs}
        for stage in [stage for stage in self._readers if stage not in needed]:
            self._let_go(stage)

    def _let_go(self, stage: StageName) -> None:
        reader = self._readers.pop(stage, None)
        if reader is not None:
            task = asyncio.create_task(reader.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
