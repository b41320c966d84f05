"""One stage: its sequences, its step queue, and the loop that computes fused steps.

Owns acceptance of rows (current attempt, expected position), the compute thread, and handing
outputs on. Does not know streams: `Outlet` is what lies behind this stage.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from shoal.worker.v1 import stage_pb2
from shoal_common.clock import Clock
from shoal_common.errors import InvalidRequest, ShoalError, StageFailed
from shoal_engine.sampling import Sampled
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.backends.base import Backend, StepInput, StepOutput, StepRow
from shoal_worker_gpu.errors import LeaseExpired, StaleAttempt, StepFailed
from shoal_worker_gpu.layer_pace import LayerPace
from shoal_worker_gpu.metrics import EngineMetrics
from shoal_worker_gpu.progress import NO_PROGRESS, ProgressDeadline
from shoal_worker_gpu.sequence import SequenceKey, SequenceTable, StageSequence
from shoal_worker_gpu.step_queue import StepQueue, WorkItem, WorkRow

log = logging.getLogger(__name__)

_F32_BYTES = 4
_WATCH_INTERVAL_S = 0.25
# Tokens of the steps that warm an engine up. The first one pays for what is done only once.
_WARM_UP_STEPS = (1, 1, 16)


@dataclass(frozen=True)
class StageOutputItem:
    """One work item's share of a computed step."""

    item: WorkItem
    rows: Sequence[WorkRow]
    activations: bytes
    sampled: Sequence[Sampled | None]
    timing: stage_pb2.StageTiming


class Outlet(Protocol):
    """Where a computed item goes: the next stage, or the head that waits for tokens."""

    def deliver(self, output: StageOutputItem) -> None: ...

    def detached(self, entry: StageSequence) -> None:
        """The sequence has left this stage; the stages behind it must free it too."""
        ...


class StageCore:
    """Computes what arrives, for as long as `run` runs."""

    def __init__(
        self,
        backend: Backend,
        node_id: str,
        incarnation: str,
        clock: Clock,
        metrics: EngineMetrics,
        *,
        queue_items_max: int,
        row_budget: int,
        prefix_ttl_s: float = 600.0,
        compute: Executor | None = None,
    ) -> None:
        """compute: one thread that runs the backend; best the one that has loaded it."""
        self.backend = backend
        self.node_id = node_id
        self.incarnation = incarnation
        self.table = SequenceTable(backend, clock)
        self.pace = LayerPace()
        self.outlet: Outlet | None = None
        self._deadline = ProgressDeadline()
        self._overdue_at: float | None = None
        self._prefix_ttl_s = prefix_ttl_s
        self._clock = clock
        self._metrics = metrics
        self._queue = StepQueue(queue_items_max, row_budget)
        self._executor = compute or ThreadPoolExecutor(1, thread_name_prefix="compute")

    @property
    def queue_length(self) -> int:
        return len(self._queue)

    @property
    def is_hung(self) -> bool:
        """A step takes longer than it may: until it ends, nothing is computed here."""
        return self._overdue_at is not None and self._clock.monotonic() >= self._overdue_at

    def check_computing(self) -> None:
        """Raises StageFailed, in this stage's name, while a step of it hangs."""
        if self.is_hung:
            raise StageFailed(self.node_id, NO_PROGRESS)

    async def warm_up(self) -> None:
        """Run made-up steps before work comes: the first request finds warm layers, and whoever
        plans finds measured times. Their KV is given back. Raises what a step raises.
        """
        backend = self.backend
        room = min(sum(_WARM_UP_STEPS), backend.context_length)
        kv = backend.pool.sequence(min(room, backend.blocks_free * backend.block_size_tokens))
        layers = LayerRange(backend.layer_start, backend.layer_stop)
        loop = asyncio.get_running_loop()
        try:
            for number, wanted in enumerate(_WARM_UP_STEPS):
                count = min(wanted, kv.capacity - kv.length)
                if count <= 0:
                    return
                step = _made_up(StepRow(kv, kv.length, count), layers, backend.width)
                started = self._clock.monotonic()
                await loop.run_in_executor(self._executor, backend.run, step)
                took_s = self._clock.monotonic() - started
                if number:
                    self._deadline.observe(took_s, count)
                    rows = (1, 0) if count == 1 else (0, count)
                    self.pace.observe(*rows, took_s * 1e6 / len(layers))
        finally:
            backend.pool.detach(kv)

    def submit(self, item: WorkItem) -> None:
        """Accept an item's rows and queue them; rows of gone sequences are refused, not queued.

        Raises QueueFull, or StageFailed while a step hangs, with every row refused.
        """
        item.arrived_at = self._clock.monotonic()
        accepted = self._accepted(item)
        if not accepted.rows:
            return
        try:
            self.check_computing()
            self._queue.put(accepted)
        except ShoalError as err:
            for row in accepted.rows:
                self.refuse(row.key, err)
            raise
        self._metrics.step_queue_depth.set(len(self._queue))

    def refuse(self, key: SequenceKey, error: ShoalError, node_id: str = "") -> None:
        """End one sequence here: free it, tell its head, tell the stages behind."""
        entry = self.table.detach(key)
        if entry is not None:
            self._left(entry)
            detail = error.detail if isinstance(error, StageFailed) else str(error)
            entry.upstream.refuse(key, error.reason, detail, node_id or self.node_id)

    def detach(self, key: SequenceKey, keys: Sequence[bytes] = ()) -> None:
        """The head lets go of a sequence; `keys` find its complete blocks again."""
        entry = self.table.detach(key, keys)
        if entry is not None:
            self._left(entry)

    async def run(self) -> None:
        """Compute fused steps until cancelled."""
        try:
            while True:
                items = await self._queue.take()
                await self._step(items)
        finally:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _left(self, entry: StageSequence) -> None:
        if self.outlet is not None:
            self.outlet.detached(entry)

    def _accepted(self, item: WorkItem) -> WorkItem:
        """The item without the rows that do not fit the table, and without their tensor rows."""
        kept = [self._accept(row, item) for row in item.rows]
        if all(kept):
            return item
        item.token_ids, item.activations = _slices(item, kept, self.backend.width)
        item.rows = [row for row, is_kept in zip(item.rows, kept, strict=True) if is_kept]
        return item

    def _accept(self, row: WorkRow, item: WorkItem) -> bool:
        entry = self.table.get(row.key)
        if entry is None:
            return False
        item.layers = item.layers or entry.layers
        if entry.layers != item.layers:
            detail = f"a frame mixes rows of layers {item.layers} and {entry.layers}"
            self.refuse(row.key, InvalidRequest(detail))
            return False
        if not entry.has_started:
            try:
                self.table.start(entry, row.position)
            except ShoalError as err:
                self.refuse(row.key, err)
                return False
        room = min(entry.kv.capacity, self.backend.context_length)
        if row.position != entry.next_position or row.position + row.count > room:
            detail = (
                f"{row.count} tokens at position {row.position}; expected position "
                f"{entry.next_position}, room for {room}"
            )
            self.refuse(row.key, StaleAttempt(detail))
            return False
        entry.next_position += row.count
        return True

    async def _step(self, items: list[WorkItem]) -> None:
        """Compute one fused step and hand every item's share on."""
        for item in items:
            self._drop_left(item)
        items = [item for item in items if item.rows]
        if not items:
            return
        started = self._clock.monotonic()
        token_count = sum(item.token_count for item in items)
        self._overdue_at = started + self._deadline.allowed_s(token_count)
        step = self._step_input(items)
        loop = asyncio.get_running_loop()
        self.table.begin_step(row.key for item in items for row in item.rows)
        try:
            output = await loop.run_in_executor(self._executor, self.backend.run, step)
        except ShoalError as err:
            self._refuse_all(items, err)
            return
        except Exception as err:
            log.exception("step failed")
            self._metrics.step_failures.inc()
            self._refuse_all(items, StepFailed(type(err).__name__))
            return
        finally:
            self.table.end_step()
            self._overdue_at = None
        compute_us = int((self._clock.monotonic() - started) * 1e6)
        self._deadline.observe(compute_us / 1e6, token_count)
        self._measure(step, compute_us)
        self._hand_on(items, step.layers, output, started, compute_us)

    def _drop_left(self, item: WorkItem) -> None:
        """Rows whose sequence left while the item waited."""
        kept = [self.table.get(row.key) is not None for row in item.rows]
        if not all(kept):
            item.token_ids, item.activations = _slices(item, kept, self.backend.width)
            item.rows = [row for row, is_kept in zip(item.rows, kept, strict=True) if is_kept]

    def _step_input(self, items: list[WorkItem]) -> StepInput:
        layers = items[0].layers
        assert layers is not None, "accepted items have layers"
        rows: list[StepRow] = []
        for item in items:
            for row in item.rows:
                entry = self.table.get(row.key)
                assert entry is not None
                sampling = entry.sampling if row.wants_token else None
                rows.append(StepRow(entry.kv, row.position, row.count, sampling))
        if layers.is_first:
            return StepInput(rows, layers, token_ids=[i for item in items for i in item.token_ids])
        return StepInput(rows, layers, activations=[item.activations for item in items])

    def _measure(self, step: StepInput, compute_us: int) -> None:
        prompt_tokens = sum(row.count for row in step.rows if row.count > 1)
        decode_rows = sum(1 for row in step.rows if row.count == 1)
        self._metrics.step_seconds.observe(compute_us / 1e6)
        self._metrics.step_rows.observe(prompt_tokens + decode_rows)
        is_last = step.layers.is_last(self.backend.layer_count)
        work_layers = len(step.layers) + self.backend.head_layers * is_last
        self.pace.observe(decode_rows, prompt_tokens, compute_us / work_layers)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "step ran",
                extra={
                    "diag": "batch",
                    "layers": f"{step.layers.start}:{step.layers.stop}",
                    "decode_rows": decode_rows,
                    "prompt_tokens": prompt_tokens,
                    "sequences": len(step.rows),
                    "compute_us": compute_us,
                },
            )

    def _refuse_all(self, items: list[WorkItem], error: ShoalError) -> None:
        for item in items:
            for row in item.rows:
                self.refuse(row.key, error)

    def _hand_on(
        self,
        items: list[WorkItem],
        layers: LayerRange,
        output: StepOutput,
        started: float,
        compute_us: int,
    ) -> None:
        assert self.outlet is not None
        token_start = row_start = 0
        width_bytes = self.backend.width * _F32_BYTES
        for item in items:
            token_stop = token_start + item.token_count
            row_stop = row_start + len(item.rows)
            timing = stage_pb2.StageTiming(
                node_id=self.node_id,
                layer_start=layers.start,
                layer_stop=layers.stop,
                queue_us=max(0, int((started - item.arrived_at) * 1e6)),
                compute_us=compute_us,
                row_count=item.token_count,
            )
            self.outlet.deliver(
                StageOutputItem(
                    item=item,
                    rows=item.rows,
                    activations=output.activations[
                        token_start * width_bytes : token_stop * width_bytes
                    ],
                    sampled=output.sampled[row_start:row_stop],
                    timing=timing,
                )
            )
            token_start, row_start = token_stop, row_stop

    async def watch_progress(self) -> None:
        """End, for ever, what waits for a step that does not: this stage names itself.

        That is every sequence here: nothing else is computed before the step has ended.
        """
        while True:
            await self._clock.sleep(_WATCH_INTERVAL_S)
            if not self.is_hung:
                continue
            if entries := list(self.table):
                log.warning("step overdue", extra={"diag": "progress", "sequences": len(entries)})
            for entry in entries:
                self.refuse(entry.key, StageFailed(self.node_id, NO_PROGRESS))

    async def watch_leases(self, interval_s: float) -> None:
        """Free, for ever, the KV of heads that went silent and prefixes nobody uses any more."""
        while True:
            await self._clock.sleep(interval_s)
            self.backend.pool.forget_idle(self._prefix_ttl_s)
            for entry in self.table.expired():
                log.warning(
                    "lease expired", extra={"diag": "progress", "head": entry.head_incarnation}
                )
                self._metrics.leases_expired.inc()
                self.refuse(entry.key, LeaseExpired("the head of the pipeline went silent"))


def _made_up(row: StepRow, layers: LayerRange, width: int) -> StepInput:
    """A step of one row that says nothing and wants no token."""
    if layers.is_first:
        return StepInput([row], layers, token_ids=[0] * row.count)
    return StepInput([row], layers, activations=[bytes(row.count * width * _F32_BYTES)])


def _slices(
    item: WorkItem, kept: Sequence[bool], width: int
) -> tuple[Sequence[int], memoryview | bytes]:
    """Token ids and activations of the kept rows."""
    ids: list[int] = []
    parts: list[memoryview | bytes] = []
    width_bytes = width * _F32_BYTES
    start = 0
    for row, is_kept in zip(item.rows, kept, strict=True):
        stop = start + row.count
        if is_kept:
            ids.extend(item.token_ids[start:stop])
            parts.append(item.activations[start * width_bytes : stop * width_bytes])
        start = stop
    return ids, b"".join(parts)
