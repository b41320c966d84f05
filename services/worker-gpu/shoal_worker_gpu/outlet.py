"""What lies behind this stage: frames to the next one, or tokens to the heads that wait.

Owns the streams of results to other heads. Turns computed items into messages; decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from shoal.worker.v1 import pipeline_pb2, stage_pb2
from shoal_common.errors import StageFailed
from shoal_engine.sampling import Sampled
from shoal_worker_gpu.errors import LeaseExpired
from shoal_worker_gpu.head import Head
from shoal_worker_gpu.links import LinkPool
from shoal_worker_gpu.pipeline_name import stage_name
from shoal_worker_gpu.sequence import SequenceKey, StageSequence
from shoal_worker_gpu.stage_core import StageCore, StageOutputItem
from shoal_worker_gpu.step_queue import WorkRow

log = logging.getLogger(__name__)

_RESULTS_MAX = 4096


class StageOutlet:
    """Hands computed items on, and hears what the stages behind have to say."""

    def __init__(self, core: StageCore) -> None:
        self._core = core
        self._heads: dict[str, asyncio.Queue[stage_pb2.ResultsResponse]] = {}
        self._links: LinkPool | None = None
        self._head: Head | None = None

    def connect(self, links: LinkPool, head: Head) -> None:
        """Close the circle: links need a listener before they exist."""
        self._links = links
        self._head = head

    def deliver(self, output: StageOutputItem) -> None:
        item = output.item
        timings = [*item.timings, output.timing]
        is_own = item.head_incarnation == self._core.incarnation
        if output.timing.layer_stop == self._core.backend.layer_count:
            rows = self._results(output)
            step = stage_pb2.StepResult(step_id=item.step_id, rows=rows, timings=timings)
            self._send_result(item.head_incarnation, step)
            return
        self._send_frame(output, timings)
        if is_own and self._head is not None:
            assert item.pipeline is not None
            self._head.left_head(item.pipeline, item.step_id)

    def detached(self, entry: StageSequence) -> None:
        if not entry.route or self._links is None:
            return
        link = self._links.present(entry.route[0])
        if link is not None:
            detach = stage_pb2.Detach(key=_wire_key(entry.key), block_hashes=entry.keys)
            link.send(stage_pb2.LinkRequest(detach=detach))

    def link_refused(self, refused: stage_pb2.SequenceRefused) -> None:
        """A stage behind dropped a sequence: drop it here and tell the stage before."""
        key = SequenceKey(refused.key.sequence, refused.key.attempt)
        entry = self._core.table.detach(key)
        if entry is not None:
            entry.upstream.refuse(key, refused.reason, refused.detail, refused.node_id)

    def link_lost(self, stage: pipeline_pb2.PipelineStage, detail: str) -> None:
        """A stage behind is gone, and with it every sequence routed through it."""
        error = StageFailed(stage.node_id, detail)
        gone = stage_name(stage)
        for entry in self._core.table:
            if entry.route and stage_name(entry.route[0]) == gone:
                self._core.refuse(entry.key, error, node_id=stage.node_id)
        if self._head is not None:
            self._head.stage_lost(stage, detail)

    async def results(self, head_incarnation: str) -> AsyncIterator[stage_pb2.ResultsResponse]:
        """The tokens of one head's sequences, for as long as it listens."""
        queue: asyncio.Queue[stage_pb2.ResultsResponse] = asyncio.Queue(_RESULTS_MAX)
        self._heads[head_incarnation] = queue
        try:
            ready = stage_pb2.LinkReady(incarnation=self._core.incarnation)
            yield stage_pb2.ResultsResponse(ready=ready)
            while True:
                yield await queue.get()
        finally:
            if self._heads.get(head_incarnation) is queue:
                del self._heads[head_incarnation]
                self._head_left(head_incarnation)

    def _head_left(self, incarnation: str) -> None:
        """Nobody waits for its tokens: the stages between, which may hang, need not tell."""
        for entry in self._core.table:
            if entry.head_incarnation == incarnation and not entry.route:
                self._core.refuse(entry.key, LeaseExpired("the head does not listen any more"))

    def _results(self, output: StageOutputItem) -> list[stage_pb2.RowResult]:
        """Tokens for the head; a sequence whose constraint gave up ends here instead."""
        rows = []
        for row, sampled in zip(output.rows, output.sampled, strict=True):
            if sampled is not None and sampled.failure is not None:
                self._core.refuse(row.key, sampled.failure)
            else:
                rows.append(_row_result(row, sampled))
        return rows

    def _send_result(self, head: str, step: stage_pb2.StepResult) -> None:
        if head == self._core.incarnation:
            assert self._head is not None
            self._head.step_landed(step)
            return
        queue = self._heads.get(head)
        try:
            if queue is not None:
                queue.put_nowait(stage_pb2.ResultsResponse(step=step))
        except asyncio.QueueFull:
            # The head misses a result and its progress deadline ends the sequences.
            log.warning("results dropped", extra={"head": head})

    def _send_frame(self, output: StageOutputItem, timings: list[stage_pb2.StageTiming]) -> None:
        entry = next(
            (found for row in output.rows if (found := self._core.table.get(row.key))), None
        )
        link = self._links.present(entry.route[0]) if entry and self._links else None
        if link is None:
            return
        timings[-1].wire_us = link.time.one_way_us(len(output.activations))
        frame = stage_pb2.Frame(
            step_id=output.item.step_id,
            head_incarnation=output.item.head_incarnation,
            rows=[
                stage_pb2.FrameRow(
                    key=_wire_key(row.key),
                    position=row.position,
                    count=row.count,
                    wants_token=row.wants_token,
                )
                for row in output.rows
            ],
            dtype=stage_pb2.TENSOR_DTYPE_F32,
            codec=stage_pb2.TENSOR_CODEC_RAW,
            width=self._core.backend.width,
            payload=output.activations,
            timings=timings,
        )
        link.send(stage_pb2.LinkRequest(frame=frame))


def _wire_key(key: SequenceKey) -> stage_pb2.SequenceKey:
    return stage_pb2.SequenceKey(sequence=key.sequence, attempt=key.attempt)


def _row_result(row: WorkRow, sampled: Sampled | None) -> stage_pb2.RowResult:
    result = stage_pb2.RowResult(key=_wire_key(row.key), position=row.position + row.count - 1)
    if sampled is not None:
        token = stage_pb2.GeneratedToken(
            token_id=sampled.token_id,
            top=[stage_pb2.TokenLogprob(token_id=i, logprob=p) for i, p in sampled.top],
        )
        if sampled.logprob is not None:
            token.logprob = sampled.logprob
        result.token.CopyFrom(token)
        result.near_tie = sampled.near_tie
    return result
