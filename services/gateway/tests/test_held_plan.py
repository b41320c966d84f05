"""How long a request waits for a router that is away, or busy with others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self

import pytest

from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_common.driving import PeerUnreachable
from shoal_common.errors import PlanUnavailable, Unavailable, UnknownModel
from shoal_common.testing.virtual_time import LoopClock, run_virtual
from shoal_gateway.held_plan import HeldPlan, Patience

PATIENCE = Patience(opening_s=3.0, silence_s=5.0, queue_s=60.0)
STAGE = pipeline_pb2.PipelineStage(node_id="a", incarnation="a1")
QUEUED = router_pb2.PlanResponse(queued=router_pb2.QueuePosition(position=1))
AWAY = PeerUnreachable("the router")
Word = tuple[float, Any]


def plan_of(incarnation: str) -> router_pb2.PlanResponse:
    stage = pipeline_pb2.PipelineStage(node_id=incarnation[0], incarnation=incarnation)
    return router_pb2.PlanResponse(
        plan=router_pb2.Plan(attempt=1, pipeline=pipeline_pb2.Pipeline(stages=[stage]))
    )


class Stream:
    """Says each of its words so many seconds after the one before; then nothing more."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._words = list(words)
        self.lost: list[str] = []
        self.is_open = False

    async def __aenter__(self) -> Self:
        self.is_open = True
        return self

    async def __aexit__(self, *failure: Any) -> None:
        self.is_open = False

    async def next(self) -> router_pb2.PlanResponse:
        delay_s, word = self._words.pop(0) if self._words else (1e6, QUEUED)
        await LoopClock().sleep(delay_s)
        if isinstance(word, Exception):
            raise word
        assert isinstance(word, router_pb2.PlanResponse)
        return word

    async def report_lost(self, lost: router_pb2.StageLost) -> None:
        self.lost.append(lost.incarnation)


class ScriptedRouter:
    """Each opening gets the next stream, the last one again and again."""

    def __init__(self, *streams: Sequence[Word]) -> None:
        self._scripts = list(streams)
        self.streams: list[Stream] = []

    async def list_models(self) -> tuple[router_pb2.ModelState, ...]:
        return ()

    def open_plan(self, request: router_pb2.PlanOpen) -> Stream:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self.streams.append(Stream(script))
        return self.streams[-1]


def first_of(router: ScriptedRouter) -> tuple[Any, float]:
    """The first answer, or error, and the seconds until it came."""

    async def ask() -> tuple[Any, float]:
        async with HeldPlan(router, router_pb2.PlanOpen(), LoopClock(), PATIENCE) as plans:
            return await _timed(plans.first())

    return _run(ask, router)


def another_of(router: ScriptedRouter) -> tuple[Any, float]:
    """The plan after that of stage a1, or the error."""

    async def ask() -> tuple[Any, float]:
        async with HeldPlan(router, router_pb2.PlanOpen(), LoopClock(), PATIENCE) as plans:
            plan = (await plans.first()).plan
            return await _timed(plans.another(plan, STAGE, "STAGE_FAILED"))

    return _run(ask, router)


async def _timed(work: Any) -> tuple[Any, float]:
    started_s = LoopClock().monotonic()
    try:
        answer = await work
    except (Unavailable, UnknownModel, TimeoutError) as err:
        answer = err
    return answer, LoopClock().monotonic() - started_s


def _run(ask: Any, router: ScriptedRouter) -> tuple[Any, float]:
    found: list[tuple[Any, float]] = []

    async def main() -> None:
        found.append(await ask())

    run_virtual(main)
    assert not any(stream.is_open for stream in router.streams)
    return found[0]


def test_a_router_that_comes_back_is_waited_for() -> None:
    plan = plan_of("a1")
    starting = PlanUnavailable("no ready worker yet")
    router = ScriptedRouter([(0, AWAY)], [(0, AWAY)], [(0, starting)], [(0, plan)])
    answer, took_s = first_of(router)
    assert answer == plan
    assert 0.3 <= took_s < 0.5


def test_a_router_that_stays_away_is_not_waited_for_for_long() -> None:
    answer, took_s = first_of(ScriptedRouter([(0, AWAY)]))
    assert isinstance(answer, PeerUnreachable)
    assert 3.0 <= took_s < 3.3


def test_what_a_router_that_was_there_answers_is_believed_at_once() -> None:
    refusal = UnknownModel("m", ())
    assert first_of(ScriptedRouter([(0, refusal)])) == (refusal, 0.0)


def test_a_request_that_waits_its_turn_survives_the_router() -> None:
    plan = plan_of("a1")
    router = ScriptedRouter([(0, QUEUED), (9, AWAY)], [(0, plan)])

    async def ask() -> tuple[Any, float]:
        async with HeldPlan(router, router_pb2.PlanOpen(), LoopClock(), PATIENCE) as plans:
            assert await plans.first() == QUEUED
            return await _timed(plans.first())

    assert _run(ask, router)[0] == plan


def test_places_in_the_queue_are_signs_of_life() -> None:
    queue = [(4.0, QUEUED)] * 5
    answer, took_s = another_of(ScriptedRouter([(0, plan_of("a1")), *queue, (4.0, plan_of("b1"))]))
    assert answer == plan_of("b1").plan
    assert took_s == pytest.approx(24.0)


@pytest.mark.parametrize(
    ("queue", "ends_s"),
    [([], 5.0), ([(4.0, QUEUED)] * 2, 13.0), ([(4.0, QUEUED)] * 99, 60.0)],
    ids=["silent", "silent after a while", "others go first"],
)
def test_another_plan_is_not_waited_for_without_end(queue: list[Word], ends_s: float) -> None:
    answer, took_s = another_of(ScriptedRouter([(0, plan_of("a1")), *queue]))
    assert isinstance(answer, TimeoutError)
    assert took_s == pytest.approx(ends_s, abs=0.01)


def test_a_router_that_is_new_is_told_what_was_lost() -> None:
    router = ScriptedRouter(
        [(0, plan_of("a1")), (1, AWAY)], [(0, plan_of("a1")), (0, plan_of("b1"))]
    )
    answer, _ = another_of(router)
    assert answer == plan_of("b1").plan
    assert [stream.lost for stream in router.streams] == [["a1"], ["a1"]]


def test_leaving_while_the_router_is_asked_leaves_nothing() -> None:
    router = ScriptedRouter([(0, AWAY)])

    async def ask() -> tuple[Any, float]:
        async with HeldPlan(router, router_pb2.PlanOpen(), LoopClock(), PATIENCE) as plans:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await plans.first()
        return None, 1.0

    _run(ask, router)
