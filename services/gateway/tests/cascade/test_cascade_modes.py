"""What leaves early in mode hold, and of an upstream's draft."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.drafter.v1 import drafter_pb2

from .conftest import (
    DRAFT,
    HEAVY,
    FakeDrafter,
    chunks,
    comments,
    delta,
    described,
    ended,
    first,
    streamed,
    text_delta,
    verdict,
)

pytestmark = pytest.mark.asyncio(loop_scope="package")


def late_doubt() -> drafter_pb2.AnswerResponse:
    told = verdict("escalate", "window", 2.0)
    told.judgement.is_late = True
    return told


async def test_in_mode_hold_the_draft_stands_once_it_has_left(start_house: Any) -> None:
    async with start_house(stream_mode="hold") as house:
        ids = house.ids(DRAFT)
        rest = [delta(ids[4:], 4), ended(len(ids)), verdict("accept", "late", 0.1)]
        house.drafter.script = [*first(ids, 4), late_doubt(), *rest]
        reply = await house.chat(stream=True)
        assert streamed(reply) == DRAFT
        assert house.fleet.stage.requests == []
        assert comments(reply)["x-shoal-answered-by"] == "drafter"
        assert await house.metric("late_doubts_total", verdict="escalate") == 1
        assert await house.metric("escalations_total", reason="window") == 0
        assert house.drafter.remembered == []
        assert house.drafter.requests[0].stands_when_passed
        await house.chat()
        assert not house.drafter.requests[1].stands_when_passed


async def test_a_draft_that_stands_is_carried_on_where_its_drafter_ends(start_house: Any) -> None:
    async with start_house(stream_mode="hold") as house:
        ids = house.ids(DRAFT)
        house.fleet.says(DRAFT)
        house.drafter.script = [*first(ids, 4), verdict("escalate", "window", 2.0)]
        reply = await house.chat(stream=True)
        assert streamed(reply) == DRAFT
        (request,) = house.fleet.stage.requests
        assert list(request.generated.ids) == ids[:4]
        assert list(request.token_ids.ids) == list(
            house.drafter.requests[0].fleet_draft.generate.token_ids.ids
        )
        assert comments(reply)["x-shoal-answered-by"] == "drafter"
        assert await house.metric("late_doubts_total", verdict="escalate") == 1
        assert await house.metric("escalations_total", reason="window") == 0
        assert house.drafter.remembered == []


async def test_in_mode_hold_an_early_doubt_escalates(start_house: Any) -> None:
    async with start_house(stream_mode="hold") as house:
        house.fleet.says(HEAVY)
        house.drafter.script = [*first(house.ids(DRAFT), 2), verdict("escalate", "early_exit")]
        reply = await house.chat(stream=True)
        assert streamed(reply) == HEAVY
        assert reply.headers["x-shoal-answered-by"] == "heavyweight"


async def test_in_mode_hold_an_upstreams_text_leaves_early_and_stands(start_house: Any) -> None:
    drafter = FakeDrafter()
    drafter.described = described(kind=drafter_pb2.DRAFTER_KIND_UPSTREAM, model="gpt-4.1-nano")
    async with start_house(drafter, stream_mode="hold") as house:
        begins = [text_delta(text, at) for at, text in enumerate(("Hel", "lo", " you", " all"))]
        last = [ended(5), verdict("accept", "late")]
        drafter.script = [*begins, late_doubt(), text_delta(".", 4), *last]
        assert streamed(await house.chat(stream=True)) == "Hello you all."
        assert house.fleet.stage.requests == []
        assert drafter.requests[0].stands_when_passed
        drafter.script = [*begins, verdict("escalate", "error")]
        reply = await house.chat(stream=True)
        assert streamed(reply) == "Hello you all"
        assert '"draft_lost"' in reply.text
        assert house.fleet.stage.requests == []


async def test_an_upstreams_text_is_held_until_it_stands(start_house: Any) -> None:
    drafter = FakeDrafter()
    drafter.described = described(kind=drafter_pb2.DRAFTER_KIND_UPSTREAM, model="gpt-4.1-nano")
    async with start_house(drafter, stream_mode="continue") as house:
        house.fleet.says(HEAVY)
        begins = [text_delta(text, at) for at, text in enumerate(("Hel", "lo", " you"))]
        drafter.script = [*begins, verdict("escalate", "window")]
        assert streamed(await house.chat(stream=True)) == HEAVY
        drafter.script = [*begins, ended(4), verdict("accept", statistic=0.1)]
        reply = await house.chat(stream=True, stream_options={"include_usage": True})
        assert streamed(reply) == "Hello you"
        assert comments(reply)["x-shoal-entropy"] == "0.100"
        usage = chunks(reply)[-1]["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 4)
        assert not drafter.requests[0].HasField("fleet_draft")
