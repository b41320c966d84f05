"""One stage's step loop: what it takes, what it drops, and whom a failure reaches."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry

from shoal_common.clock import Clock, SystemClock
from shoal_common.errors import StageFailed
from shoal_common.testing import FakeClock, eventually
from shoal_engine.errors import InvalidBatch
from shoal_worker_gpu.backends.base import StepInput, StepOutput
from shoal_worker_gpu.errors import QueueFull
from shoal_worker_gpu.metrics import EngineMetrics
from shoal_worker_gpu.sequence import SequenceKey, StageSequence
from shoal_worker_gpu.stage_core import StageCore, StageOutputItem
from shoal_worker_gpu.step_queue import WorkItem, WorkRow
from shoal_worker_gpu.testing import HashBackend

A, B, C, D = (SequenceKey(number, 1) for number in (1, 2, 3, 4))
LEASE_S = 10.0


class Brittle(HashBackend):
    """Raises `error` once, in the next step that finds it."""

    error: Exception | None = None

    def run(self, step: StepInput) -> StepOutput:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().run(step)


class Ends:
    """Both ends of a stage: who hears refusals, and where outputs go."""

    def __init__(self) -> None:
        self.refused: list[tuple[SequenceKey, str]] = []
        self.left: list[SequenceKey] = []
        self.outputs: asyncio.Queue[StageOutputItem] = asyncio.Queue()

    def refuse(self, key: SequenceKey, reason: str, detail: str, node_id: str) -> None:
        assert node_id == "node"
        self.refused.append((key, reason))

    def deliver(self, output: StageOutputItem) -> None:
        self.outputs.put_nowait(output)

    def detached(self, entry: StageSequence) -> None:
        self.left.append(entry.key)

    async def output(self) -> StageOutputItem:
        async with asyncio.timeout(20):
            return await self.outputs.get()


class Bench:
    """A stage of layers 2 to 4 of 6 that passes the ids in its activations on."""

    def __init__(
        self, *, queue_items_max: int = 8, block_count: int = 16, clock: Clock | None = None
    ) -> None:
        self.backend = Brittle(2, 4, 6, block_count=block_count)
        self.clock = FakeClock()
        self.ends = Ends()
        self.registry = CollectorRegistry()
        self.core = StageCore(
            self.backend,
            "node",
            "incarnation",
            clock or self.clock,
            EngineMetrics(self.registry),
            queue_items_max=queue_items_max,
            row_budget=64,
        )
        self.core.outlet = self.ends

    def attach(self, *keys: SequenceKey) -> None:
        for key in keys:
            self.core.table.attach(
                key,
                4,
                head_incarnation="head",
                route=(),
                upstream=self.ends,
                sampling=None,
                lease_s=LEASE_S,
            )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.core.run())
        try:
            yield
        finally:
            self.backend.gate.set()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def counted(self, name: str) -> float:
        return self.registry.get_sample_value(f"shoal_worker_gpu_{name}") or 0.0


@pytest.fixture
def bench() -> Bench:
    return Bench()


def work(*rows: tuple[SequenceKey, int, Sequence[int]], head: str = "head") -> WorkItem:
    """An item of rows (sequence, position, ids)."""
    ids = [number for _, _, numbers in rows for number in numbers]
    return WorkItem(
        step_id=1,
        head_incarnation=head,
        rows=[WorkRow(key, position, len(numbers), False) for key, position, numbers in rows],
        activations=packed(ids),
    )


def packed(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}f", *ids)


async def until_computing(bench: Bench) -> None:
    """Wait until the loop has taken all that was submitted."""
    async with asyncio.timeout(20):
        while bench.core.queue_length:  # noqa: ASYNC110 turns of the loop
            await asyncio.sleep(0)


@pytest.mark.parametrize(("block_count", "steps"), [(16, [1, 1, 16]), (2, [1, 1, 6])])
async def test_an_engine_that_was_warmed_up_knows_its_pace_and_holds_nothing(
    block_count: int, steps: list[int]
) -> None:
    bench = Bench(block_count=block_count, clock=SystemClock())
    await bench.core.warm_up()
    assert bench.backend.step_sizes == steps
    assert bench.core.pace.decode_us > 0
    assert (bench.core.pace.prefill_ns > 0) == (steps[-1] == 16)
    assert bench.backend.blocks_free == block_count
    assert bench.ends.refused == bench.ends.left == []


async def test_rows_of_unknown_sequences_go_and_the_others_keep_their_tensor_rows(
    bench: Bench,
) -> None:
    bench.attach(A, C)
    stale = SequenceKey(A.sequence, 0)
    async with bench.running():
        bench.core.submit(work((stale, 0, [9]), (A, 0, [1, 2]), (B, 0, [8, 8]), (C, 0, [3])))
        output = await bench.ends.output()
    assert [row.key for row in output.rows] == [A, C]
    assert output.activations == packed([1, 2, 3])
    assert bench.ends.refused == []


@pytest.mark.parametrize(
    ("position", "count"), [(1, 1), (0, 17)], ids=["ahead of what it has", "beyond its blocks"]
)
async def test_a_row_that_does_not_fit_ends_its_sequence_alone(
    bench: Bench, position: int, count: int
) -> None:
    bench.attach(A, B)
    async with bench.running():
        bench.core.submit(work((A, position, [7] * count), (B, 0, [1, 2])))
        output = await bench.ends.output()
    assert [row.key for row in output.rows] == [B]
    assert output.activations == packed([1, 2])
    assert bench.ends.refused == [(A, "STALE_ATTEMPT")]
    assert bench.ends.left == [A]
    assert bench.backend.blocks_free == 16 - 4


async def test_a_row_sent_twice_is_computed_once(bench: Bench) -> None:
    bench.attach(A)
    async with bench.running():
        bench.core.submit(work((A, 0, [1, 2])))
        await bench.ends.output()
        bench.core.submit(work((A, 0, [1, 2])))
    assert bench.ends.refused == [(A, "STALE_ATTEMPT")]
    assert bench.backend.step_sizes == [2]


async def test_no_row_goes_beyond_the_context(bench: Bench) -> None:
    """A neighbouring head that asks for more blocks than the context must not fail our step."""
    bench.attach(A)
    bench.backend.context_length = 8
    async with bench.running():
        bench.core.submit(work((A, 0, [7] * 9)))
    assert bench.ends.refused == [(A, "STALE_ATTEMPT")]


async def test_heads_share_a_step_and_get_their_own_part(bench: Bench) -> None:
    bench.attach(A, B, C)
    bench.backend.gate.clear()
    async with bench.running():
        bench.core.submit(work((A, 0, [1])))
        await until_computing(bench)
        bench.core.submit(work((B, 0, [2, 3]), head="one"))
        bench.core.submit(work((C, 0, [4]), head="two"))
        bench.backend.gate.set()
        outputs = [await bench.ends.output() for _ in range(3)]
    assert bench.backend.step_sizes == [1, 3]
    assert [output.item.head_incarnation for output in outputs] == ["head", "one", "two"]
    assert [output.activations for output in outputs[1:]] == [packed([2, 3]), packed([4])]


@pytest.mark.parametrize(
    ("error", "reason", "failures"),
    [
        (InvalidBatch("too odd"), InvalidBatch.reason, 0),
        (ZeroDivisionError("inside a kernel"), "STEP_FAILED", 1),
    ],
    ids=["world error", "bug"],
)
async def test_a_step_that_raises_ends_its_sequences_and_the_engine_goes_on(
    bench: Bench, error: Exception, reason: str, failures: int
) -> None:
    bench.attach(A, B)
    bench.backend.error = error
    async with bench.running():
        bench.core.submit(work((A, 0, [1]), (B, 0, [2])))
        await until_computing(bench)
        async with asyncio.timeout(20):
            while len(bench.core.table):  # noqa: ASYNC110 turns of the loop
                await asyncio.sleep(0)
        assert bench.ends.refused == [(A, reason), (B, reason)]
        assert bench.ends.left == [A, B]
        bench.attach(C)
        bench.core.submit(work((C, 0, [5])))
        assert (await bench.ends.output()).activations == packed([5])
    assert bench.backend.blocks_free == 16 - 4
    assert bench.counted("step_failures_total") == failures


async def test_a_sequence_that_leaves_while_its_rows_wait_is_not_computed(bench: Bench) -> None:
    bench.attach(A, B, C)
    bench.backend.gate.clear()
    async with bench.running():
        bench.core.submit(work((A, 0, [1])))
        await until_computing(bench)
        bench.core.submit(work((B, 0, [2, 2]), (C, 0, [3])))
        bench.core.detach(B)
        bench.backend.gate.set()
        await bench.ends.output()
        output = await bench.ends.output()
    assert output.activations == packed([3])
    assert bench.backend.step_sizes == [1, 1]


async def test_a_sequence_that_leaves_during_its_step_keeps_its_blocks_until_the_end(
    bench: Bench,
) -> None:
    bench.attach(A)
    bench.backend.gate.clear()
    async with bench.running():
        bench.core.submit(work((A, 0, [1])))
        await until_computing(bench)
        bench.core.detach(A)
        assert bench.ends.left == [A]
        assert bench.backend.blocks_free == 16 - 4
        bench.backend.gate.set()
        await bench.ends.output()
    assert bench.backend.blocks_free == 16


async def test_behind_a_step_that_hangs_nothing_waits(bench: Bench) -> None:
    bench.attach(A, B)
    bench.backend.gate.clear()
    watching = asyncio.create_task(bench.core.watch_progress())
    async with bench.running():
        bench.core.submit(work((A, 0, [1])))
        await until_computing(bench)
        bench.core.submit(work((B, 0, [2])))
        await bench.clock.advance(31.0)
        assert bench.core.is_hung
        assert bench.ends.refused == [(A, "STAGE_FAILED"), (B, "STAGE_FAILED")]
        bench.attach(C)
        with pytest.raises(StageFailed, match="node"):
            bench.core.submit(work((C, 0, [3])))
        assert bench.ends.refused[2:] == [(C, "STAGE_FAILED")]
        bench.backend.gate.set()
        await eventually(lambda: not bench.core.is_hung, 20)
        bench.attach(D)
        bench.core.submit(work((D, 0, [4])))
        while (output := await bench.ends.output()).activations != packed([4]):
            assert output.activations == packed([1])
    watching.cancel()
    assert bench.backend.blocks_free == 16 - 4
    assert bench.backend.step_sizes == [1, 1]


async def test_a_full_queue_refuses_the_item_and_nothing_else() -> None:
    bench = Bench(queue_items_max=1)
    bench.attach(A, B, C)
    bench.backend.gate.clear()
    async with bench.running():
        bench.core.submit(work((A, 0, [1])))
        await until_computing(bench)
        bench.core.submit(work((B, 0, [2])))
        with pytest.raises(QueueFull):
            bench.core.submit(work((C, 0, [3])))
        assert bench.ends.refused == [(C, "QUEUE_FULL")]
        bench.backend.gate.set()
        assert [(await bench.ends.output()).activations for _ in range(2)] == [
            packed([1]),
            packed([2]),
        ]


async def test_the_kv_of_a_silent_head_is_freed(bench: Bench) -> None:
    bench.attach(A)
    watching = asyncio.create_task(bench.core.watch_leases(1.0))
    try:
        await bench.clock.advance(LEASE_S)
        assert len(bench.core.table) == 1
        bench.core.table.renew("head")
        await bench.clock.advance(LEASE_S)
        assert len(bench.core.table) == 1
        await bench.clock.advance(1.5)
    finally:
        watching.cancel()
    assert bench.ends.refused == [(A, "LEASE_EXPIRED")]
    assert bench.ends.left == [A]
    assert bench.backend.blocks_free == 16
    assert bench.counted("leases_expired_total") == 1
