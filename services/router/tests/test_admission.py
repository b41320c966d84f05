from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shoal_common.testing import FakeClock
from shoal_router.admission import Admission, Bounds
from shoal_router.errors import QueueFull, WaitTooLong
from shoal_router.pipeline import Pipeline
from shoal_router.request import Request
from shoal_router.testing import MODEL, engine
from shoal_router.ticket import Ticket
from shoal_router.tiers import FixedTiers, Tier

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


OTHER = Pipeline((engine("other", model="other", incarnation="other"),), time_us=100)


class Crowd:
    """Tickets of tenants whose names begin with their tier, on a clock by hand."""

    def __init__(self, in_flight_max: int = 1, waiting_max: int = 8, tenant_slots: int = 0) -> None:
        self.clock = FakeClock()
        by_tenant = {f"{tier.name.lower()}{n}": tier for tier in Tier for n in range(4)}
        tiers = FixedTiers(Tier.GOLD, by_tenant, guests=("guest*",))
        bounds = Bounds(in_flight_max, waiting_max, tenant_slots)
        self.admission = Admission(bounds, tiers, self.clock)
        self.arrival = 0

    def enter(self, tenant: str = "", *, model: str = MODEL, left_s: float | None = None) -> Ticket:
        self.arrival += 1
        request = Request(f"req-{self.arrival}", model, tenant=tenant, remaining_s=left_s)
        now_s = self.clock.monotonic()
        ticket = Ticket(request, self.arrival, now_s, now_s)
        self.admission.enter(ticket, self.pipelines(model))
        return ticket

    def close(self, ticket: Ticket) -> None:
        self.admission.leave(ticket)
        for model in self.admission.waiting_models():
            self.admission.grant(model, self.pipelines(model))

    def pipelines(self, model: str) -> list[Pipeline]:
        return [FAST] if model == MODEL else [OTHER]


def test_a_better_tier_is_served_before_those_who_came_earlier() -> None:
    crowd = Crowd()
    running = crowd.enter()
    waiting = [crowd.enter(name) for name in ("bronze0", "guest", "silver0", "platinum0")]
    assert [t.position for t in waiting] == [3, 4, 2, 1]
    crowd.close(running)
    assert waiting[3].pipeline is FAST


@pytest.mark.parametrize(
    ("tenant", "slot_count"), [("bronze0", 2), ("silver0", 5), ("gold0", 10), ("platinum0", 20)]
)
def test_a_tenant_holds_the_slots_of_its_tier(tenant: str, slot_count: int) -> None:
    crowd = Crowd(in_flight_max=64, waiting_max=64, tenant_slots=10)
    tickets = [crowd.enter(tenant) for _ in range(24)]
    assert sum(t.pipeline is not None for t in tickets) == slot_count
    assert crowd.enter("gold3").pipeline is FAST
    crowd.close(tickets[0])
    assert tickets[slot_count].pipeline is FAST


def test_a_tenants_slots_are_counted_over_all_models() -> None:
    crowd = Crowd(in_flight_max=8, tenant_slots=1)
    first = crowd.enter("gold0")
    second = crowd.enter("gold0", model="other")
    assert second.position == 1
    crowd.close(first)
    assert second.pipeline is OTHER


def test_without_a_limit_no_slot_stays_free_and_shares_say_whose_turn_it_is() -> None:
    crowd = Crowd(in_flight_max=4)
    greedy = [crowd.enter("bronze0") for _ in range(6)]
    assert [bool(t.pipeline) for t in greedy] == [True] * 4 + [False] * 2
    modest = crowd.enter("bronze1")
    crowd.close(greedy[0])
    assert modest.pipeline is FAST
    crowd.close(greedy[1])
    assert greedy[4].pipeline is FAST


def test_an_engine_gets_no_more_than_it_runs_at_once() -> None:
    crowd = Crowd(in_flight_max=8)
    small = Pipeline((engine("a", running_max=1), engine("b", "3:6", running_max=4)), 1)
    assert crowd.admission.has_room(small)
    first, second = ticket(1), ticket(2)
    crowd.admission.enter(first, [small])
    crowd.admission.enter(second, [small])
    assert (first.pipeline, second.position) == (small, 1)


def test_a_tenant_that_fills_the_queue_cannot_lock_another_out() -> None:
    crowd = Crowd(waiting_max=4)
    crowd.enter()
    greedy = [crowd.enter("gold0") for _ in range(4)]
    modest = crowd.enter("gold1")
    assert modest.position == 2, "tenants take turns"
    assert isinstance(greedy[3].error, QueueFull)
    assert [t.error for t in greedy[:3]] == [None] * 3
    crowd.enter("gold1")
    with pytest.raises(QueueFull):
        crowd.enter("gold1")
    assert crowd.admission.waiting_count == 4


def test_places_are_weighed_by_tier() -> None:
    crowd = Crowd(waiting_max=4)
    crowd.enter()
    rich = [crowd.enter("platinum0") for _ in range(3)]
    poor = crowd.enter("bronze0")
    with pytest.raises(QueueFull):
        crowd.enter("bronze0")
    assert crowd.enter("platinum0").position == 4
    assert isinstance(poor.error, QueueFull)
    assert [t.error for t in rich] == [None] * 3


def test_the_bound_is_one_over_all_models() -> None:
    crowd = Crowd(waiting_max=2)
    for model in (MODEL, "other"):
        crowd.enter(model=model)
        assert crowd.enter(model=model).position == 1
    with pytest.raises(QueueFull, match="model 'other' would be number 2"):
        crowd.enter(model="other")


def test_a_full_queue_says_when_to_come_back() -> None:
    crowd = Crowd(in_flight_max=2, waiting_max=1)
    tickets = [crowd.enter() for _ in range(2)]
    crowd.clock.jump(8)
    crowd.close(tickets[0])
    tickets = [crowd.enter(), crowd.enter()]
    assert tickets[1].expected_wait_s == 4.0
    with pytest.raises(QueueFull, match="try again in 8 s") as caught:
        crowd.enter()
    assert (caught.value.queue_position, caught.value.retry_after_s) == (2, 8.0)


def test_a_request_whose_time_ends_leaves_the_queue_at_once() -> None:
    crowd = Crowd()
    crowd.enter()
    hasty, patient = crowd.enter(left_s=2.0), crowd.enter()
    crowd.clock.jump(1.9)
    crowd.admission.expire()
    assert hasty.error is None
    crowd.clock.jump(0.1)
    crowd.admission.expire()
    assert isinstance(hasty.error, WaitTooLong)
    assert "2.0 s at place 1" in str(hasty.error)
    assert patient.position == 1


def test_the_soonest_end_is_noticed_whoever_came_first() -> None:
    crowd = Crowd()
    crowd.enter()
    ends = [crowd.enter(left_s=left_s) for left_s in (5.0, 1.0, 3.0)]
    over = []
    for _ in range(6):
        crowd.admission.expire()
        over.append([t.error is not None for t in ends])
        crowd.clock.jump(1.0)
    assert over[1] == [False, True, False]
    assert over[3] == [False, True, True]
    assert over[5] == [True, True, True]


def test_a_reply_that_has_begun_is_not_given_up_in_the_queue() -> None:
    crowd = Crowd()
    lost = crowd.enter(left_s=2.0)
    lost.excluded.update(FAST.incarnations)
    crowd.admission.release(lost)
    crowd.admission.enter(lost, [FAST])
    crowd.clock.jump(3)
    crowd.admission.expire()
    assert (lost.error, lost.position) == (None, 1)


def test_a_request_that_cannot_make_it_is_refused_when_it_comes() -> None:
    crowd = Crowd()
    slow = crowd.enter()
    crowd.clock.jump(10)
    crowd.close(slow)
    crowd.enter()
    crowd.enter(left_s=6.0)
    with pytest.raises(WaitTooLong, match="about 20 s of waiting"):
        crowd.enter(left_s=6.0)
    assert crowd.admission.waiting_count == 1


def test_a_long_queue_tells_far_places_rarely_and_near_ones_always() -> None:
    crowd = Crowd(waiting_max=100)
    running = [crowd.enter()]
    waiting = [crowd.enter() for _ in range(100)]
    told = 0
    for _ in range(90):
        for each in waiting:
            each.changed.clear()
        crowd.close(running.pop())
        running.append(next(t for t in waiting if t.pipeline and t not in running))
        waiting.remove(running[-1])
        told += waiting[-1].changed.is_set()
        assert waiting[-1].position <= len(waiting) / 0.9
    assert waiting[-1].position == 10
    assert told <= 30


class Operations(RuleBasedStateMachine):
    """Whatever drivers do: bounds hold, no slot is lost, none is left free that somebody wants."""

    def __init__(self) -> None:
        super().__init__()
        self.crowd = Crowd(in_flight_max=2, waiting_max=5)
        self.both = [FAST, SLOW]
        self.crowd.pipelines = lambda model: self.both  # type: ignore[method-assign]
        self.living: list[Ticket] = []

    @rule(tenant=st.sampled_from(["bronze0", "gold0", "gold1", "platinum0", "guest"]))
    def open(self, tenant: str) -> None:
        with suppress(QueueFull):
            self.living.append(self.crowd.enter(tenant))

    @rule(index=st.integers(0, 20))
    def close(self, index: int) -> None:
        if self.living:
            self.crowd.close(self.living.pop(index % len(self.living)))

    @rule(index=st.integers(0, 20))
    def lose(self, index: int) -> None:
        running = [t for t in self.living if t.pipeline]
        if running:
            lost = running[index % len(running)]
            assert lost.pipeline is not None
            lost.excluded.update(lost.pipeline.incarnations)
            self.crowd.admission.release(lost)
            self.crowd.admission.enter(lost, self.both)

    @rule()
    def swap(self) -> None:
        """The fleet changes."""
        self.both = [FAST] if len(self.both) == 2 else [FAST, SLOW]
        self.crowd.admission.grant(MODEL, self.both)

    @invariant()
    def holds(self) -> None:
        admission = self.crowd.admission
        self.living = [t for t in self.living if t.error is None]
        running = [t for t in self.living if t.pipeline]
        waiting = [t for t in self.living if not t.pipeline]
        assert admission.in_flight_count == len(running)
        for pipeline in (FAST, SLOW):
            load = sum(t.pipeline is pipeline for t in running)
            assert admission.load(pipeline) == load <= 2
        assert admission.waiting_count == len(waiting)
        assert sorted(t.position for t in waiting) == list(range(1, len(waiting) + 1))
        assert sum(t.attempt == 0 for t in waiting) <= 5
        for each in waiting:
            assert not any(each.may_use(p) and admission.has_room(p) for p in self.both)

    def teardown(self) -> None:
        for each in self.living:
            self.crowd.close(each)
        assert self.crowd.admission.in_flight_count == self.crowd.admission.waiting_count == 0


TestOperations = Operations.TestCase
TestOperations.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
