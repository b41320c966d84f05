"""One step takes what runs through the same layers, in order, and leaves nobody behind."""

from __future__ import annotations

import pytest

from shoal_engine.shape import LayerRange
from shoal_worker_gpu.errors import QueueFull
from shoal_worker_gpu.sequence import SequenceKey
from shoal_worker_gpu.step_queue import StepQueue, WorkItem, WorkRow

WHOLE, PART = LayerRange(0, 6), LayerRange(0, 3)


def item(step_id: int, sequence: int, count: int = 1, layers: LayerRange = WHOLE) -> WorkItem:
    rows = [WorkRow(SequenceKey(sequence, 1), 0, count, False)]
    return WorkItem(step_id, "head", rows, layers=layers)


async def steps(queue: StepQueue) -> list[list[int]]:
    """The ids of the items of each step until nothing is left."""
    taken = []
    while len(queue):
        taken.append([each.step_id for each in await queue.take()])
    return taken


def filled(*items: WorkItem, row_budget: int = 8) -> StepQueue:
    queue = StepQueue(16, row_budget)
    for each in items:
        queue.put(each)
    return queue


async def test_a_step_takes_all_that_fits_in_order() -> None:
    queue = filled(item(1, 1, 4), item(2, 2, 4), item(3, 3, 1))
    assert await steps(queue) == [[1, 2], [3]]


async def test_two_chunks_of_a_sequence_are_two_steps() -> None:
    queue = filled(item(1, 1), item(2, 2), item(3, 1), item(4, 4))
    assert await steps(queue) == [[1, 2], [3, 4]]


async def test_what_runs_through_other_layers_waits_for_the_next_step() -> None:
    queue = filled(item(1, 1), item(2, 2, layers=PART), item(3, 3), item(4, 4, layers=PART))
    assert await steps(queue) == [[1, 3], [2, 4]]


async def test_the_oldest_is_never_passed_over_twice() -> None:
    queue = filled(item(1, 1), item(2, 2, layers=PART), item(3, 3, 7), item(4, 4))
    assert [each.step_id for each in await queue.take()] == [1, 3]
    queue.put(item(5, 5))
    assert await steps(queue) == [[2], [4, 5]]


async def test_an_item_larger_than_the_budget_goes_alone() -> None:
    assert await steps(filled(item(1, 1, 20), item(2, 2))) == [[1], [2]]


def test_the_queue_is_bounded() -> None:
    queue = StepQueue(1, 8)
    queue.put(item(1, 1))
    with pytest.raises(QueueFull):
        queue.put(item(2, 2))
    assert len(queue) == 1
