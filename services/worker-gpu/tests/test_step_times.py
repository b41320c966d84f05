"""Sums by stage, whatever the number of steps; nothing of a step's time is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shoal.worker.v1 import stage_pb2
from shoal_worker_gpu.step_times import TimeSums, step_times
from shoal_worker_gpu.testing import HashBackend

from .conftest import Pipeline

Make = Callable[..., Awaitable[Pipeline[HashBackend]]]


def stage(
    name: str, queue_us: int, compute_us: int, wire_us: int = 0, row_count: int = 1
) -> stage_pb2.StageTiming:
    return stage_pb2.StageTiming(
        node_id=name,
        layer_stop=3,
        queue_us=queue_us,
        compute_us=compute_us,
        wire_us=wire_us,
        row_count=row_count,
    )


def test_what_no_stage_accounts_for_is_the_way_back() -> None:
    sums = TimeSums()
    for rows in (5, 1):
        step = [stage("a", 10, 100, 7, rows), stage("b", 20, 200, row_count=rows)]
        sums.add(step_times(step, 0.001))
    assert sums.step_count == 2
    assert sums.timings() == [stage("a", 20, 200, 14, 6), stage("b", 40, 400, 2 * 663, 6)]


def test_stages_that_claim_more_than_the_step_took_leave_no_negative_time() -> None:
    sums = TimeSums()
    sums.add(step_times([stage("a", 10, 5000)], 0.001))
    assert sums.timings() == [stage("a", 10, 5000)]


def test_a_reply_of_no_steps_has_no_timings() -> None:
    assert TimeSums().timings() == []
    sums = TimeSums()
    sums.add(step_times([], 0.1))
    assert (sums.step_count, sums.timings()) == (1, [])


async def test_a_reply_says_where_its_time_went(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((2, 4))
    prompt = [3, 1, 4, 1, 5]
    async for event in pipeline.events(pipeline.request(prompt, 30)):
        finished = event.finished
    assert finished.step_count == 30
    named = [(t.node_id, t.layer_start, t.layer_stop) for t in finished.timings]
    assert named == [("worker-0", 0, 2), ("worker-1", 2, 4), ("worker-2", 4, 6)]
    assert [timing.row_count for timing in finished.timings] == [len(prompt) + 29] * 3
    assert all(timing.compute_us for timing in finished.timings)
    assert finished.timings[-1].wire_us, "the way back takes time"


async def test_receipts_tell_how_far_the_next_stage_is(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((3,))
    await pipeline.tokens([1, 2, 3], 10)
    response = await pipeline._stub.GetEngine(stage_pb2.GetEngineRequest())
    (link,) = response.links
    assert link.node_id == "worker-1"
    assert link.rtt_us > 0
