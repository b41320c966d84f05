"""The life of an answer, through the service, with a fleet that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from shoal.drafter.v1 import drafter_pb2
from shoal.worker.v1 import stage_pb2
from shoal_common.errors import StageFailed
from shoal_common.rpc import to_shoal_error

from .fleet_fakes import DOUBTED, SURE, TORN, Fleet, request_of, running_fleet

BITS_TORN, BITS_DOUBTED = 4.32, 3.46


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with running_fleet(tmp_path) as fleet:
        yield fleet


def kinds(events: list[Any]) -> list[str]:
    return [event.WhichOneof("event") for event in events]


def verdicts(events: list[Any]) -> list[tuple[str, str]]:
    return [
        (drafter_pb2.Verdict.Name(event.judgement.verdict)[8:], event.judgement.reason)
        for event in events
        if event.HasField("judgement")
    ]


async def refused(fleet: Fleet, request: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fleet.answer(request)
    return to_shoal_error(caught.value).reason


async def test_sure_draft_is_accepted_with_its_ids(fleet: Fleet) -> None:
    fleet.stage.script = [SURE] * 6
    events = await fleet.answer(request_of())
    assert kinds(events) == ["begun", *["draft"] * 6, "end", "judgement"]
    assert verdicts(events) == [("ACCEPT", "")]
    begun, end = events[0].begun, events[-2].end
    assert begun.plan.pipeline.pipeline_id == "p1"
    assert begun.admitted.cached_token_count == 3
    deltas = [event.draft for event in events if event.HasField("draft")]
    assert [delta.first_position for delta in deltas] == [0, 1, 2, 3, 4, 5]
    assert [delta.tokens[0].token_id for delta in deltas] == [100, 101, 102, 103, 104, 105]
    assert [delta.settled_count for delta in deltas] == [0, 0, 0, 1, 2, 3]
    assert all(delta.entropy_bits[0] < 0.01 for delta in deltas)
    assert (end.completion_token_count, end.prompt_token_count) == (6, 3)
    assert end.reason == stage_pb2.FINISH_REASON_STOP
    assert [timing.compute_us for timing in end.timings] == [7]


async def test_doubtful_draft_is_escalated_and_freed_at_once(fleet: Fleet) -> None:
    fleet.stage.script = [SURE] * 4 + [DOUBTED] * 20
    fleet.stage.hold_at = 6
    events = await fleet.answer(request_of())
    assert verdicts(events) == [("SPECULATE", "soft"), ("ESCALATE", "window")]
    assert kinds(events)[-1] == "judgement"
    assert events[-1].judgement.position == 6
    assert events[-1].judgement.statistic == pytest.approx(BITS_DOUBTED / 2, rel=0.01)
    assert events[-2].draft.settled_count == 2
    await fleet.stage.is_cancelled.wait()
    await fleet.router.is_closed.wait()


async def test_doubt_behind_tokens_that_left_is_told_once_and_ends_nothing(fleet: Fleet) -> None:
    fleet.stage.script = [SURE] * 6 + [TORN] * 4 + [SURE] * 4
    events = await fleet.answer(request_of(stands_when_passed=True))
    told = [verdict for verdict in verdicts(events) if verdict[0] != "SPECULATE"]
    assert told == [("ESCALATE", "window"), ("ACCEPT", "late")]
    assert [event.judgement.is_late for event in events].count(True) == 1
    deltas = [event.draft for event in events if event.HasField("draft")]
    assert [delta.first_position for delta in deltas] == list(range(14))
    assert events[-2].end.completion_token_count == 14
    assert deltas[-1].settled_count <= 6


async def test_first_tokens_in_doubt_escalate_whoever_would_stand(fleet: Fleet) -> None:
    fleet.stage.script = [TORN] * 12
    events = await fleet.answer(request_of(stands_when_passed=True))
    assert verdicts(events)[-1][0] == "ESCALATE"
    assert kinds(events)[-1] == "judgement"
    assert "end" not in kinds(events)


async def test_doubt_that_passes_recovers(fleet: Fleet) -> None:
    fleet.stage.script = [DOUBTED] + [SURE] * 8
    events = await fleet.answer(request_of())
    assert verdicts(events) == [("SPECULATE", "soft"), ("RECOVER", "calm"), ("ACCEPT", "")]


async def test_strictly_serial_where_speculation_is_off(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, speculative_enabled=False) as fleet:
        fleet.stage.script = [SURE] * 4 + [TORN] * 4
        assert verdicts(await fleet.answer(request_of())) == [("ESCALATE", "window")]


async def test_tokens_without_candidates_count_as_unknown(fleet: Fleet) -> None:
    fleet.stage.script = [[]] * 8
    assert verdicts(await fleet.answer(request_of()))[-1] == ("ESCALATE", "unknown")


async def test_tokens_that_were_counted_and_never_shown_are_doubted(fleet: Fleet) -> None:
    fleet.stage.script, fleet.stage.counted = [SURE] * 5, 4
    events = await fleet.answer(request_of())
    assert kinds(events)[-2:] == ["end", "judgement"]
    assert verdicts(events) == [("ESCALATE", "unknown")]


async def test_draft_of_no_tokens_is_no_answer(fleet: Fleet) -> None:
    events = await fleet.answer(request_of())
    assert kinds(events) == ["begun", "end", "judgement"]
    assert verdicts(events) == [("ESCALATE", "empty")]


async def test_ungated_draft_is_whole_and_tells_every_doubt(fleet: Fleet) -> None:
    fleet.stage.script = [TORN] * 7 + [[]]
    events = await fleet.answer(request_of(is_ungated=True))
    assert kinds(events) == ["begun", *["draft"] * 8, "end"]
    doubts = [event.draft.doubts[0] for event in events if event.HasField("draft")]
    assert [doubt.is_known for doubt in doubts] == [True] * 7 + [False]
    assert doubts[0].renormalised_bits == pytest.approx(BITS_TORN, rel=0.01)
    assert doubts[0].lower_bits <= doubts[0].upper_bits
    assert doubts[0].margin == pytest.approx(0, abs=0.01)


async def test_lost_stage_is_escalated_and_never_planned_again(fleet: Fleet) -> None:
    fleet.stage.script = [SURE] * 9
    fleet.stage.lost, fleet.stage.lost_at = StageFailed("node-a", "it died"), 2
    events = await fleet.answer(request_of())
    assert kinds(events) == ["begun", "draft", "draft", "judgement"]
    assert verdicts(events) == [("ESCALATE", "error")]
    assert (len(fleet.router.opened), len(fleet.stage.requests)) == (1, 1)


async def test_lost_stage_is_an_error_of_an_ungated_draft(fleet: Fleet) -> None:
    fleet.stage.script = [SURE] * 9
    fleet.stage.lost, fleet.stage.lost_at = StageFailed("node-a", "it died"), 2
    assert await refused(fleet, request_of(is_ungated=True)) == "DRAFT_FAILED"


async def test_draft_that_takes_too_long_is_escalated(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, drafter_timeout_s=0.15) as fleet:
        fleet.stage.script, fleet.stage.hold_at = [SURE] * 9, 1
        events = await fleet.answer(request_of())
        assert verdicts(events) == [("ESCALATE", "timeout")]
        await fleet.stage.is_cancelled.wait()
        await fleet.router.is_closed.wait()
        assert await refused(fleet, request_of(is_ungated=True)) == "DRAFT_TIMED_OUT"


async def test_request_with_less_time_left_ends_sooner(fleet: Fleet) -> None:
    fleet.stage.script, fleet.stage.hold_at = [SURE] * 9, 1
    events = await fleet.answer(request_of(remaining_ms=150))
    assert verdicts(events) == [("ESCALATE", "timeout")]
    assert 0 < fleet.stage.requests[0].remaining_ms <= 150
    assert 0 < fleet.router.opened[0].remaining_ms <= 150


async def test_time_in_the_routers_queue_counts(fleet: Fleet) -> None:
    fleet.router.queue = asyncio.Event()
    events = await fleet.answer(request_of(remaining_ms=150))
    assert verdicts(events) == [("ESCALATE", "timeout")]
    await fleet.router.is_closed.wait()
    assert not fleet.stage.requests


async def test_caller_that_goes_away_frees_plan_and_head(fleet: Fleet) -> None:
    fleet.stage.script, fleet.stage.hold_at = [SURE] * 9, 2
    call = fleet.stub.Answer(request_of())
    await call.read()
    await fleet.stage.is_holding.wait()
    call.cancel()
    await fleet.stage.is_cancelled.wait()
    await fleet.router.is_closed.wait()


async def test_more_answers_than_may_run_are_escalated(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, answer_concurrency=1) as fleet:
        fleet.stage.script, fleet.stage.hold_at = [SURE] * 5, 2
        first = fleet.stub.Answer(request_of("q1"))
        await first.read()
        await fleet.stage.is_holding.wait()
        assert verdicts(await fleet.answer(request_of("q2"))) == [("ESCALATE", "overloaded")]
        assert await refused(fleet, request_of("q3", is_ungated=True)) == "TOO_MANY_ANSWERS"
        fleet.stage.released.set()
        rest = []
        while isinstance(event := await first.read(), drafter_pb2.AnswerResponse):
            rest.append(event)
        assert verdicts(rest) == [("ACCEPT", "")]
        assert verdicts(await fleet.answer(request_of("q4"))) == [("ACCEPT", "")]


async def test_statistic_margin_is_told_as_a_share(tmp_path: Path) -> None:
    async with running_fleet(tmp_path, statistic="margin", threshold_bits=0.5) as fleet:
        fleet.stage.script = [SURE, TORN, SURE, SURE, SURE]
        events = await fleet.answer(request_of())
        shares = [event.draft.entropy_bits[0] for event in events if event.HasField("draft")]
        assert shares == pytest.approx([0, 1, 0, 0, 0], abs=0.01)
        assert verdicts(events)[-1] == ("ACCEPT", "")
