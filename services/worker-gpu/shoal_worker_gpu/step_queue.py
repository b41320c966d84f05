"""What waits for this stage's next step, and how much of it is taken at once.

Every stage has one queue; frames of any head that run through the same layers are fused up to a
row budget, in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoal.worker.v1 import stage_pb2
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.errors import QueueFull
from shoal_worker_gpu.pipeline_name import PipelineName
from shoal_worker_gpu.sequence import SequenceKey


@dataclass(frozen=True)
class WorkRow:
    """`count` tokens of a sequence from `position` on; `wants_token` asks the last stage."""

    key: SequenceKey
    position: int
    count: int
    wants_token: bool


@dataclass
class WorkItem:
    """One head's part of a step, as it arrived.

    token_ids on the first stage, activations (T rows of float32) on later ones. layers: those
    that all its rows run through, known once it is accepted.
    """

    step_id: int
    head_incarnation: str
    rows: Sequence[WorkRow]
    token_ids: Sequence[int] = ()
    activations: memoryview | bytes = b""
    timings: list[stage_pb2.StageTiming] = field(default_factory=list)
    arrived_at: float = 0.0
    pipeline: PipelineName | None = None
    layers: LayerRange | None = None

    @property
    def token_count(self) -> int:
        return sum(row.count for row in self.rows)


class StepQueue:
    """Bounded in items; `take` fuses from the front."""

    def __init__(self, items_max: int, row_budget: int) -> None:
        self._items: deque[WorkItem] = deque()
        self._items_max = items_max
        self._row_budget = row_budget
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: WorkItem) -> None:
        """Queue an item. Raises QueueFull, with the queue untouched."""
        if len(self._items) >= self._items_max:
            raise QueueFull(self._items_max)
        self._items.append(item)
        self._arrived.set()

    async def take(self) -> list[WorkItem]:
        """Wait for work; the items of one fused step: at least one, else within the budget.

        Items that run through other layers than the oldest keep their places: one of them is the
        oldest next time.
        """
        while not self._items:
            self._arrived.clear()
            await self._arrived.wait()
        taken = [self._items.popleft()]
        others: list[WorkItem] = []
        room = self._row_budget - taken[0].token_count
        held = {row.key.sequence for row in taken[0].rows}
        while self._items:
            item = self._items[0]
            if item.layers != taken[0].layers:
                others.append(self._items.popleft())
                continue
            # Two chunks of one sequence cannot share a step: the second reads the first's KV.
            sequences = {row.key.sequence for row in item.rows}
            if item.token_count > room or sequences & held:
                break
            held |= sequences
            room -= item.token_count
            taken.append(self._items.popleft())
        self._items.extendleft(reversed(others))
        return taken
