"""Owns: the order in which those who wait for one model are served.

Does not know: slots, bounds, time.

1. Who lost a stage goes on before anybody begins, the earliest arrival first.
2. Better standings go first. One that was passed over `PASSES_MAX` times while it waited goes next,
   whatever waits above it, so that nobody starves.
3. Within a standing tenants take turns; within a tenant the earliest arrival goes first.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterator

from shoal_router.ticket import Ticket
from shoal_router.tiers import Standing

PASSES_MAX = 8


class Line:
    """Tickets that wait for one model; each stands in it once.

    Invariants: `_queues` and `_turns` know exactly the tenants that wait to begin, by standing; the
    lower turn comes first; `_passes` knows standings that wait.
    """

    def __init__(self) -> None:
        self._resumed: list[Ticket] = []
        self._queues: dict[Standing, dict[str, list[Ticket]]] = {}
        self._turns: dict[tuple[Standing, str], int] = {}
        self._last_turn = 0
        self._passes: Counter[Standing] = Counter()

    def __len__(self) -> int:
        return len(self._resumed) + sum(1 for _ in self._fresh())

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket in self._queue_of(ticket)

    def push(self, ticket: Ticket) -> None:
        """A tenant that did not wait gets the last turn of its standing."""
        if ticket.attempt > 0:
            insort(self._resumed, ticket, key=lambda t: t.arrival)
            return
        queues = self._queues.setdefault(ticket.standing, {})
        if ticket.tenant not in queues:
            self._turn_to_end(ticket)
        insort(queues.setdefault(ticket.tenant, []), ticket, key=lambda t: t.arrival)

    def remove(self, ticket: Ticket) -> None:
        """Out of the line, its tenant's turn kept for the next of its tickets. Idempotent."""
        queue = self._queue_of(ticket)
        if ticket not in queue:
            return
        queue.remove(ticket)
        if queue or ticket.attempt > 0:
            return
        del self._queues[ticket.standing][ticket.tenant]
        del self._turns[ticket.standing, ticket.tenant]
        if not self._queues[ticket.standing]:
            del self._queues[ticket.standing]
            del self._passes[ticket.standing]

    def served(self, ticket: Ticket) -> None:
        """Out of the line because it got a slot: its tenant's turn is over, others were passed."""
        self.remove(ticket)
        if ticket.attempt > 0:
            return
        for standing in self._queues:
            if standing == ticket.standing:
                self._passes[standing] = 0
            else:
                self._passes[standing] += 1
        if (ticket.standing, ticket.tenant) in self._turns:
            self._turn_to_end(ticket)

    def tickets(self) -> list[Ticket]:
        """In the order of places as they are told: whom a better standing lets wait stands behind
        it, though rule 2 may serve it sooner."""
        return self._in_order(sorted(self._queues, key=lambda s: s.rank))

    def next_first(self) -> list[Ticket]:
        """In the order in which they are to be tried for the next slot."""
        overdue = [s for s in self._queues if self._passes[s] >= PASSES_MAX]
        overdue.sort(key=lambda s: (-self._passes[s], s.rank))
        others = [s for s in self._queues if self._passes[s] < PASSES_MAX]
        return self._in_order([*overdue, *sorted(others, key=lambda s: s.rank)])

    def _in_order(self, standings: list[Standing]) -> list[Ticket]:
        ordered = list(self._resumed)
        for standing in standings:
            ranked = [
                (round_, self._turns[standing, tenant], ticket)
                for tenant, queue in self._queues[standing].items()
                for round_, ticket in enumerate(queue)
            ]
            ranked.sort(key=lambda entry: entry[:2])
            ordered += [ticket for _, _, ticket in ranked]
        return ordered

    def _fresh(self) -> Iterator[Ticket]:
        for queues in self._queues.values():
            for queue in queues.values():
                yield from queue

    def _queue_of(self, ticket: Ticket) -> list[Ticket]:
        if ticket.attempt > 0:
            return self._resumed
        return self._queues.get(ticket.standing, {}).get(ticket.tenant, [])

    def _turn_to_end(self, ticket: Ticket) -> None:
        self._last_turn += 1
        self._turns[ticket.standing, ticket.tenant] = self._last_turn
