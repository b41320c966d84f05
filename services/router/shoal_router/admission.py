"""Owns: how many plans run at once, who waits, and until when.

Does not know: beats, the wire, why a model has no pipeline, which pipeline is best. It decides
synchronously; whoever waits watches `Ticket.changed`. Slots are open plan streams, so that nothing
here ever expires by itself but the time a request has left.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal_common.clock import Clock, SystemClock
from shoal_common.errors import ShoalError
from shoal_router import diagnostics
from shoal_router.errors import QueueFull, WaitTooLong
from shoal_router.line import Line
from shoal_router.pace import Pace
from shoal_router.pipeline import Pipeline
from shoal_router.ticket import Choose, Ticket
from shoal_router.tiers import FixedTiers, Standing, Tier, Tiers, slots_of

# A request is refused at once when the expected wait is over so many times what is left of its
# time; the expectation is rough, and an answer that comes is better than a refusal that was right.
HOPELESS_FACTOR = 2.0
# Places further back are told again only when they have moved by a tenth: a queue of hundreds would
# otherwise send hundreds of messages for every slot that comes free.
TOLD_ALWAYS_MAX = 16
RETRY_UNKNOWN_S = 5.0
RETRY_S_MAX = 60.0
# Models whose pace is remembered.
PACES_MAX = 256


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much runs and waits at once.

    in_flight_max: plans that one engine carries. waiting_max: tickets that wait, over all models.
    tenant_slots: what a gold tenant may hold, over all models; other tiers have their share of it.
    0 stands for what the pipelines carry, and then a share only says whose turn it is: a slot that
    nobody below its share wants goes to whoever waits.
    """

    in_flight_max: int = 32
    waiting_max: int = 512
    tenant_slots: int = 0


class Admission:
    """Invariants: no engine carries more than `in_flight_max` plans, nor more than it runs at once;
    at most `waiting_max` first attempts wait; a slot that some waiting ticket may have is not left
    free.

    A request that lost a stage goes on before anybody begins, and is not refused for a full queue:
    it has been admitted once.
    """

    def __init__(
        self, bounds: Bounds | None = None, tiers: Tiers | None = None, clock: Clock | None = None
    ) -> None:
        self.choose: Choose = self.least_loaded
        self.bounds = bounds or Bounds()
        self._tiers = tiers or FixedTiers()
        self._clock = clock or SystemClock()
        self._loads: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        """Slots by tenant."""
        self._in_flight: Counter[str] = Counter()
        """Slots by model."""
        self._carried: dict[str, int] = {}
        """Slots that the pipelines of a model have, taken or not."""
        self._first_step_s: dict[str, float] = {}
        self._lines: dict[str, Line] = {}
        self._paces: dict[str, Pace] = {}
        self._expires_at_s = math.inf
        """Nobody who waits runs out of time before."""

    @property
    def in_flight_count(self) -> int:
        return self._in_flight.total()

    def in_flight_of(self, model: str) -> int:
        return self._in_flight[model]

    @property
    def waiting_count(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def waiting_by_tier(self, tier: Tier) -> int:
        return sum(t.standing.tier is tier for line in self._lines.values() for t in line.tickets())

    def waiting(self, model: str) -> Sequence[Ticket]:
        """In the order of their places."""
        line = self._lines.get(model)
        return line.tickets() if line else ()

    def waiting_models(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def standing(self, tenant: str) -> Standing:
        return Standing(self._tiers.tier(tenant), self._tiers.is_own_pool(tenant))

    def observe(self, pipelines: Mapping[str, Sequence[Pipeline]]) -> None:
        """Takes in which pipelines every model has now."""
        self._carried.clear()
        self._first_step_s.clear()
        for model, of_model in pipelines.items():
            self._measure(model, of_model)

    def enter(self, ticket: Ticket, pipelines: Sequence[Pipeline]) -> None:
        """Gives a slot at once or a place in the queue.

        Raises QueueFull and WaitTooLong, with nothing changed.
        """
        if ticket.attempt == 0:
            ticket.standing = self.standing(ticket.tenant)
        self._lines.setdefault(ticket.model, Line()).push(ticket)
        self.grant(ticket.model, pipelines)
        if ticket.pipeline is None:
            self._expires_at_s = min(self._expires_at_s, self._last_moment_s(ticket))
        if ticket.pipeline is None and ticket.attempt == 0:
            try:
                self._check_hope(ticket)
                self._make_room(ticket)
            except ShoalError:
                self.leave(ticket)
                raise
            diagnostics.queued(ticket)

    def grant(self, model: str, pipelines: Sequence[Pipeline]) -> None:
        """Hands free slots to those who wait for a model; tells those who moved."""
        self._measure(model, pipelines)
        line = self._lines.get(model)
        if line is None:
            return
        while found := self._next(line, pipelines):
            ticket, pipeline = found
            line.served(ticket)
            candidate_count = sum(ticket.may_use(p) and self.has_room(p) for p in pipelines)
            self._take(ticket, pipeline)
            diagnostics.plan_given(
                ticket, candidate_count, ticket.granted_at_s - ticket.opened_at_s
            )
        self._tell_places(model, line)

    def release(self, ticket: Ticket) -> None:
        """Gives the slot back, if it holds one. Idempotent."""
        if ticket.pipeline is None:
            return
        self._loads.subtract(ticket.pipeline.incarnations)
        self._loads = +self._loads
        for counts, key in ((self._held, ticket.tenant), (self._in_flight, ticket.model)):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]
        ticket.pipeline = None
        now_s = self._clock.monotonic()
        self._pace(ticket.model).released(
            now_s, now_s - ticket.granted_at_s, is_awaited=ticket.model in self._lines
        )

    def leave(self, ticket: Ticket) -> None:
        """Out of the queue and of its slot, whichever it has. Idempotent."""
        self.release(ticket)
        line = self._lines.get(ticket.model)
        if line is not None and ticket in line:
            line.remove(ticket)
            ticket.position = 0
            self._tell_places(ticket.model, line)

    def fail(self, ticket: Ticket, error: ShoalError) -> None:
        """Ends a ticket; its owner finds the error."""
        self.leave(ticket)
        ticket.error = error
        ticket.changed.set()

    def expire(self) -> None:
        """Fails those who wait to begin and can no longer make it: what is left is below one step.

        How long one that lost a stage may wait is its driver's affair: its answer has begun.
        """
        now_s = self._clock.monotonic()
        if now_s < self._expires_at_s:
            return
        waiting = [ticket for line in self._lines.values() for ticket in line.tickets()]
        for ticket in waiting:
            if now_s >= self._last_moment_s(ticket):
                waited_s = now_s - ticket.opened_at_s
                self.fail(ticket, WaitTooLong.over(ticket.model, ticket.position, waited_s))
        left = (self._last_moment_s(ticket) for ticket in waiting if ticket.error is None)
        self._expires_at_s = min(left, default=math.inf)

    def _last_moment_s(self, ticket: Ticket) -> float:
        """When what is left of a request's time is one step; never for one that has no limit."""
        if ticket.deadline_at_s is None or ticket.attempt > 0:
            return math.inf
        return ticket.deadline_at_s - self._first_step_s.get(ticket.model, 0.0)

    def load(self, pipeline: Pipeline) -> int:
        """Plans in flight on the busiest stage: pipelines of before may share some stages."""
        return max(self._loads[incarnation] for incarnation in pipeline.incarnations)

    def plans_on(self, incarnation: str) -> int:
        """Plans in flight on one engine."""
        return self._loads[incarnation]

    def has_room(self, pipeline: Pipeline) -> bool:
        """Whether every stage could take one more plan."""
        return all(self._loads[s.incarnation] < self._limit(s.running_max) for s in pipeline.stages)

    def least_loaded(self, ticket: Ticket, pipelines: Sequence[Pipeline]) -> Pipeline | None:
        """By load times predicted step time, so that a slow pipeline fills behind a fast one."""
        return min(pipelines, key=lambda p: (self.load(p) + 1) * max(p.time_us, 1), default=None)

    def _next(self, line: Line, pipelines: Sequence[Pipeline]) -> tuple[Ticket, Pipeline] | None:
        """Who gets a slot now, and where: first of those below their share."""
        free = [p for p in pipelines if self.has_room(p)]
        if not free:
            return None
        later: list[Ticket] = []
        for ticket in line.next_first():
            if ticket.attempt == 0 and self._has_its_share(ticket):
                later.append(ticket)
            elif pipeline := self._chosen(ticket, free):
                return ticket, pipeline
        if self.bounds.tenant_slots:
            return None
        return next(((t, p) for t in later if (p := self._chosen(t, free))), None)

    def _chosen(self, ticket: Ticket, free: Sequence[Pipeline]) -> Pipeline | None:
        usable = [p for p in free if ticket.may_use(p)]
        return self.choose(ticket, usable) if usable else None

    def _has_its_share(self, ticket: Ticket) -> bool:
        slot_count = self.bounds.tenant_slots or sum(self._carried.values())
        return self._held[ticket.tenant] >= slots_of(ticket.standing.tier, slot_count)

    def _take(self, ticket: Ticket, pipeline: Pipeline) -> None:
        self._loads.update(pipeline.incarnations)
        self._held[ticket.tenant] += 1
        self._in_flight[ticket.model] += 1
        ticket.pipeline = pipeline
        ticket.granted_at_s = self._clock.monotonic()
        ticket.attempt += 1
        ticket.position = 0
        ticket.loading_percent = None
        ticket.changed.set()

    def _check_hope(self, ticket: Ticket) -> None:
        wait_s, left_s = ticket.expected_wait_s, ticket.request.remaining_s
        if wait_s is not None and left_s is not None and wait_s > HOPELESS_FACTOR * left_s:
            raise WaitTooLong.expected(ticket.model, ticket.position, wait_s, left_s)

    def _make_room(self, ticket: Ticket) -> None:
        """Keeps the bound: the newest ticket of whoever has taken most of the queue goes.

        That is the newcomer itself, unless a tenant holds more places for its tier than the
        newcomer's: else one tenant could lock all others out.
        """
        if self.waiting_count <= self.bounds.waiting_max:
            return
        waiting = [t for line in self._lines.values() for t in line.tickets() if t.attempt == 0]
        places = Counter(t.tenant for t in waiting)

        def greed(one: Ticket) -> float:
            return float(places[one.tenant] / one.standing.tier.share)

        greediest = max(waiting, key=lambda t: (greed(t), t.tenant == ticket.tenant, t.arrival))
        full = self._queue_full(greediest)
        if greediest.tenant == ticket.tenant:
            raise self._queue_full(ticket)
        self.fail(greediest, full)

    def _queue_full(self, ticket: Ticket) -> QueueFull:
        wait_s = RETRY_UNKNOWN_S if ticket.expected_wait_s is None else ticket.expected_wait_s
        return QueueFull(
            ticket.model,
            self.bounds.waiting_max,
            ticket.position,
            min(max(wait_s, 1.0), RETRY_S_MAX),
        )

    def _measure(self, model: str, pipelines: Sequence[Pipeline]) -> None:
        heads = {p.stages[0].incarnation: self._limit(p.stages[0].running_max) for p in pipelines}
        self._carried[model] = sum(heads.values())
        self._first_step_s[model] = min((p.time_us for p in pipelines), default=0) / 1e6

    def _limit(self, running_max: int) -> int:
        most = self.bounds.in_flight_max
        return min(most, running_max) if running_max else most

    def _pace(self, model: str) -> Pace:
        if model not in self._paces and len(self._paces) >= PACES_MAX:
            self._paces.pop(next(iter(self._paces)))
        return self._paces.setdefault(model, Pace())

    def _tell_places(self, model: str, line: Line) -> None:
        if not len(line):
            del self._lines[model]
            return
        now_s, in_flight_count = self._clock.monotonic(), self._in_flight[model]
        pace = self._pace(model)
        for position, ticket in enumerate(line.tickets(), start=1):
            if _is_news(ticket.position, position):
                ticket.position = position
                ticket.expected_wait_s = pace.wait_s(position, now_s, in_flight_count)
                ticket.changed.set()


def _is_news(told: int, position: int) -> bool:
    if told == position:
        return False
    return position <= TOLD_ALWAYS_MAX or not 0 < position < told or position <= 0.9 * told
