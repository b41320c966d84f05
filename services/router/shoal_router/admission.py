"""Owns: how many plans a pipeline carries at once, and who waits, in which order.

Does not know: beats, the wire, why a model has no pipeline. It decides synchronously; whoever
waits watches `Ticket.changed`.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shoal_common.errors import ShoalError
from shoal_router.errors import QueueFull
from shoal_router.pipeline import Pipeline
from shoal_router.request import Request

Choose = Callable[["Ticket", Sequence[Pipeline]], Pipeline | None]
"""Which of the pipelines that have room, none of them lost to the ticket before, takes it; None:
it waits."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One generation's place: waiting (position > 0), running (pipeline set) or failed (error)."""

    request: Request
    arrival: int
    opened_at_s: float
    served_at_s: float
    """When there last was a pipeline for it; from then on it waits for missing layers."""
    attempt: int = 0
    excluded: set[str] = field(default_factory=set)
    lost_nodes: list[str] = field(default_factory=list)
    pipeline: Pipeline | None = None
    error: ShoalError | None = None
    position: int = 0
    loading_percent: int | None = None
    """Set while the model is being loaded for those who wait."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def model(self) -> str:
        return self.request.model

    def may_use(self, pipeline: Pipeline) -> bool:
        return self.excluded.isdisjoint(pipeline.incarnations)


class Admission:
    """Invariants: no engine carries more than `in_flight_max` plans; per model at most
    `waiting_max` first attempts wait; earlier arrivals get the first chance at every slot.

    A request that lost a stage keeps its arrival, so that it stands before all who came later, and
    is not refused for a full queue: it has been admitted once.
    """

    def __init__(self, *, in_flight_max: int, waiting_max: int) -> None:
        self._in_flight_max = in_flight_max
        self._waiting_max = waiting_max
        self.choose: Choose = self.least_loaded
        self._loads: Counter[str] = Counter()
        self._queues: dict[str, list[Ticket]] = {}
        self.in_flight_count = 0

    @property
    def waiting_count(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def waiting(self, model: str) -> Sequence[Ticket]:
        return tuple(self._queues.get(model, ()))

    def waiting_models(self) -> tuple[str, ...]:
        return tuple(self._queues)

    def enter(self, ticket: Ticket, pipelines: Sequence[Pipeline]) -> None:
        """Gives a slot at once or a place in the queue. Raises QueueFull, with nothing changed."""
        queue = self._queues.setdefault(ticket.model, [])
        insort(queue, ticket, key=lambda t: t.arrival)
        self.grant(ticket.model, pipelines)
        if ticket.pipeline is None and ticket.attempt == 0:
            waiting_count = len(self._queues[ticket.model]) - 1
            if waiting_count >= self._waiting_max:
                self.leave(ticket)
                raise QueueFull(ticket.model, waiting_count)

    def grant(self, model: str, pipelines: Sequence[Pipeline]) -> None:
        """Hands free slots to waiting tickets, first come first served; tells those who moved."""
        queue = self._queues.get(model)
        if queue is None:
            return
        still_waiting: list[Ticket] = []
        for ticket in queue:
            pipeline = self._chosen(ticket, pipelines)
            if pipeline is None:
                still_waiting.append(ticket)
            else:
                self._take(ticket, pipeline)
        self._set_queue(model, still_waiting)

    def release(self, ticket: Ticket) -> None:
        """Gives the slot back, if it holds one. Idempotent."""
        if ticket.pipeline is None:
            return
        self._loads.subtract(ticket.pipeline.incarnations)
        self._loads = +self._loads
        self.in_flight_count -= 1
        ticket.pipeline = None

    def leave(self, ticket: Ticket) -> None:
        """Out of the queue and of its slot, whichever it has. Idempotent."""
        self.release(ticket)
        queue = self._queues.get(ticket.model, [])
        if ticket in queue:
            self._set_queue(ticket.model, [t for t in queue if t is not ticket])

    def fail(self, ticket: Ticket, error: ShoalError) -> None:
        """Ends a ticket; its owner finds the error."""
        self.leave(ticket)
        ticket.error = error
        ticket.changed.set()

    def load(self, pipeline: Pipeline) -> int:
        """Plans in flight on the busiest stage: pipelines of before may share some stages."""
        return max(self._loads[incarnation] for incarnation in pipeline.incarnations)

    def least_loaded(self, ticket: Ticket, pipelines: Sequence[Pipeline]) -> Pipeline | None:
        """By load times predicted step time, so that a slow pipeline fills behind a fast one."""
        return min(pipelines, key=lambda p: (self.load(p) + 1) * max(p.time_us, 1), default=None)

    def _chosen(self, ticket: Ticket, pipelines: Sequence[Pipeline]) -> Pipeline | None:
        usable = [p for p in pipelines if ticket.may_use(p) and self.load(p) < self._in_flight_max]
        return self.choose(ticket, usable) if usable else None

    def _take(self, ticket: Ticket, pipeline: Pipeline) -> None:
        self._loads.update(pipeline.incarnations)
        self.in_flight_count += 1
        ticket.pipeline = pipeline
        ticket.attempt += 1
        ticket.position = 0
        ticket.loading_percent = None
        ticket.changed.set()

    def _set_queue(self, model: str, queue: list[Ticket]) -> None:
        if queue:
            self._queues[model] = queue
        else:
            self._queues.pop(model, None)
        for position, ticket in enumerate(queue, start=1):
            if ticket.position != position:
                ticket.position = position
                ticket.changed.set()
