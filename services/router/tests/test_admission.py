from __future__ import annotations

import pytest

from shoal_router.admission import Admission, Bounds
from shoal_router.errors import QueueFull
from shoal_router.pipeline import Pipeline
from shoal_router.request import Request
from shoal_router.testing import MODEL, engine
from shoal_router.ticket import Ticket

FAST = Pipeline((engine("fast"),), time_us=100)
SLOW = Pipeline((engine("slow"),), time_us=250)


def ticket(arrival: int) -> Ticket:
    return Ticket(Request(f"req-{arrival}", MODEL), arrival, opened_at_s=0, served_at_s=0)


def entered(admission: Admission, count: int, *pipelines: Pipeline) -> list[Ticket]:
    tickets = [ticket(arrival) for arrival in range(count)]
    for each in tickets:
        admission.enter(each, pipelines)
    return tickets


def test_load_spreads_by_predicted_time() -> None:
    admission = Admission(Bounds(8, 0))
    used = [t.pipeline for t in entered(admission, 5, FAST, SLOW)]
    assert used == [FAST, FAST, SLOW, FAST, FAST]


def test_a_full_pipeline_queues_first_come_first_served() -> None:
    admission = Admission(Bounds(1, 5))
    first, *waiting = entered(admission, 4, FAST)
    assert [t.position for t in waiting] == [1, 2, 3]
    admission.leave(first)
    admission.grant(MODEL, [FAST])
    assert waiting[0].pipeline is FAST
    assert [t.position for t in waiting] == [0, 1, 2]


def test_beyond_the_bound_nothing_waits() -> None:
    admission = Admission(Bounds(1, 2))
    entered(admission, 3, FAST)
    with pytest.raises(QueueFull, match="all 2 places"):
        admission.enter(ticket(9), [FAST])
    assert (admission.in_flight_count, admission.waiting_count) == (1, 2)


def test_leaving_the_queue_moves_the_others_up() -> None:
    admission = Admission(Bounds(1, 5))
    tickets = entered(admission, 4, FAST)
    tickets[3].changed.clear()
    admission.leave(tickets[1])
    assert [t.position for t in tickets[2:]] == [1, 2]
    assert tickets[3].changed.is_set()


def test_leaving_twice_frees_one_slot() -> None:
    admission = Admission(Bounds(2, 5))
    tickets = entered(admission, 2, FAST)
    admission.leave(tickets[0])
    admission.leave(tickets[0])
    assert admission.load(FAST) == 1
    assert admission.in_flight_count == 1


def test_one_that_lost_a_stage_stands_before_later_arrivals_and_is_never_refused() -> None:
    admission = Admission(Bounds(1, 1))
    tickets = entered(admission, 3, FAST, SLOW)
    admission.release(tickets[0])
    tickets[0].excluded.update(FAST.incarnations)
    admission.enter(tickets[0], [SLOW])
    assert [tickets[0].position, tickets[2].position] == [1, 2]
    admission.leave(tickets[1])
    admission.grant(MODEL, [SLOW])
    assert tickets[0].pipeline is SLOW
    assert tickets[0].attempt == 2


def test_slots_are_counted_per_engine_across_pipelines() -> None:
    admission = Admission(Bounds(1, 5))
    shared = engine("a", "0:3")
    before = Pipeline((shared, engine("b", "3:6")), 1)
    after = Pipeline((shared, engine("c", "3:6")), 1)
    first, second = ticket(1), ticket(2)
    admission.enter(first, [before])
    admission.enter(second, [after])
    assert second.position == 1
