"""The order of those who wait: who goes first, and that nobody starves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from shoal_router.line import PASSES_MAX, Line
from shoal_router.request import Request
from shoal_router.testing import MODEL
from shoal_router.ticket import Ticket
from shoal_router.tiers import Standing, Tier

STANDINGS = [Standing(tier, own) for own in (True, False) for tier in Tier]
BEST, WORST = Standing(Tier.PLATINUM), Standing(Tier.BRONZE, is_own_pool=False)

Maker = Callable[..., Ticket]


def make_tickets() -> Maker:
    arrivals = count(1)

    def make(tenant: str = "", standing: Standing = BEST, attempt: int = 0) -> Ticket:
        arrival = next(arrivals)
        request = Request(f"req-{arrival}", MODEL, tenant=tenant)
        return Ticket(request, arrival, 0, 0, standing=standing, attempt=attempt)

    return make


def serve(line: Line) -> Ticket:
    first = line.next_first()[0]
    line.served(first)
    return first


def drained(line: Line) -> list[Ticket]:
    return [serve(line) for _ in range(len(line))]


def test_better_standings_go_first_whenever_they_came() -> None:
    line, make = Line(), make_tickets()
    tickets = [make("t", standing) for standing in STANDINGS]
    for ticket in tickets:
        line.push(ticket)
    assert line.tickets() == drained(line) == sorted(tickets, key=lambda t: t.standing.rank)


def test_tenants_take_turns_however_many_requests_each_has() -> None:
    line, make = Line(), make_tickets()
    for tenant in "aaaab":
        line.push(make(tenant))
    line.push(make("c"))
    assert [t.tenant for t in line.tickets()] == ["a", "b", "c", "a", "a", "a"]
    assert [t.tenant for t in drained(line)] == ["a", "b", "c", "a", "a", "a"]


def test_who_comes_back_at_once_does_not_take_the_turn_of_who_waits() -> None:
    line, make = Line(), make_tickets()
    for tenant in "abc":
        line.push(make(tenant))
    assert serve(line).tenant == "a"
    line.push(make("a"))
    line.push(make("d"))
    assert [t.tenant for t in drained(line)] == ["b", "c", "a", "d"]


def test_one_that_lost_a_stage_goes_on_before_anybody_begins() -> None:
    line, make = Line(), make_tickets()
    older, newer = make(standing=WORST, attempt=1), make(standing=WORST, attempt=1)
    for ticket in (make(), newer, older):
        line.push(ticket)
    assert drained(line)[:2] == [older, newer]


def test_leaving_keeps_the_tenants_turn() -> None:
    line, make = Line(), make_tickets()
    first, second = make("a"), make("a")
    for ticket in (first, second, make("b")):
        line.push(ticket)
    line.remove(first)
    line.remove(first)
    assert first not in line
    assert len(line) == 2
    assert [t.tenant for t in line.tickets()] == ["a", "b"]


def test_the_worst_standing_gets_one_slot_in_nine_from_a_flood() -> None:
    line, make = Line(), make_tickets()
    for _ in range(9):
        line.push(make("poor", WORST))
    served = Counter[str]()
    for _ in range(81):
        line.push(make("rich", BEST))
        served[serve(line).tenant] += 1
    assert served == {"rich": 72, "poor": 9}


arrivals = st.lists(st.tuples(st.sampled_from(STANDINGS), st.sampled_from("abcd")), max_size=3)


@given(st.lists(arrivals, max_size=150))
def test_whatever_comes_a_waiting_standing_is_served_within_a_bound(
    waves: list[list[tuple[Standing, str]]],
) -> None:
    line, make = Line(), make_tickets()
    passed = Counter[Standing]()
    for wave in waves:
        for standing, tenant in wave:
            line.push(make(tenant, standing))
        if not len(line):
            continue
        waiting = {t.standing for t in line.tickets()}
        chosen = serve(line)
        for standing in waiting:
            passed[standing] = 0 if standing == chosen.standing else passed[standing] + 1
        assert max(passed.values()) < PASSES_MAX + len(STANDINGS)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcd")), max_size=150))
def test_tenants_of_one_standing_that_wait_are_never_two_turns_apart(
    steps: list[tuple[bool, str]],
) -> None:
    line, make = Line(), make_tickets()
    turns: dict[tuple[str, str], int] = defaultdict(int)
    """Turns that the first had while the second waited, since its own last one."""
    last: dict[str, int] = {}
    for is_arrival, tenant in steps:
        if is_arrival or not len(line):
            line.push(make(tenant))
            continue
        waiting = {t.tenant for t in line.tickets()}
        chosen = serve(line)
        assert chosen.arrival > last.get(chosen.tenant, 0), "in a tenant first come is first served"
        last[chosen.tenant] = chosen.arrival
        for other in waiting - {chosen.tenant}:
            turns[chosen.tenant, other] += 1
            assert turns[chosen.tenant, other] <= 1
        for pair in [p for p in turns if p[1] == chosen.tenant]:
            del turns[pair]
