"""Replies whose pipelines are lost on the way: the client sees what it would have seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from shoal.router.v1 import router_pb2_grpc
from shoal_common.driving import Silence
from shoal_common.errors import DeadlineExceeded, Overloaded
from shoal_common.rpc import RpcServer

from .conftest import FakeRouter

KEY = "k" * 64
HELLO: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "clock", "parameters": {"type": "object"}},
    }
]
CALL = '<tool_call>\n{"name": "clock", "arguments": {"zone": "Europe/Paris"}}\n</tool_call>'
# Characters of several tokens, a stop string that is found behind a replay, calls, logprobs.
REPLIES: list[Any] = [
    pytest.param("fish 🦈 swim — 魚", {"logprobs": True, "top_logprobs": 2}, id="logprobs"),
    pytest.param("one two three. END of it", {"stop": [" END"]}, id="stop string"),
    pytest.param('{"a": [1, 2, "three"]}', {"response_format": {"type": "json_object"}}, id="json"),
    pytest.param(f"Let me see. {CALL}", {"tools": TOOLS}, id="tool call"),
    pytest.param("one two three four five six", {"max_tokens": 5}, id="length"),
]


@pytest.fixture
async def client(fleet: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


async def said(url: str, **body: Any) -> list[Any]:
    """What the chunks of a stream say, without what differs between any two streams."""
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(
            f"{url}/v1/chat/completions",
            json={"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
            | body,
        ) as response,
    ):
        assert response.status == 200
        lines = (await response.read()).decode().split("\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return [_lasting(event) for event in events]


def _lasting(event: Any) -> Any:
    if "error" in event:
        return event
    for choice in event["choices"]:
        for call in choice["delta"].get("tool_calls") or ():
            call.pop("id", None)
    return (event["choices"], event.get("usage"))


@pytest.mark.parametrize(("text", "fields"), REPLIES)
async def test_wherever_the_pipeline_is_lost_the_client_sees_the_same(
    fleet: Any, text: str, fields: dict[str, Any]
) -> None:
    fleet.says(text)
    undisturbed = await said(fleet.url, **fields)
    fleet.router.plan_count = 3
    for position in range(len(fleet.stage.reply_ids) + 1):
        fleet.stage.fail_at = [position, min(position + 2, len(fleet.stage.reply_ids))]
        assert await said(fleet.url, **fields) == undisturbed, position


async def test_what_two_lost_pipelines_have_said_is_sent_along(fleet: Any) -> None:
    fleet.says("one two three four five")
    fleet.router.plan_count = 3
    fleet.stage.fail_at = [2, 4]
    await said(fleet.url)
    ids = fleet.stage.reply_ids
    sent = [(r.attempt, list(r.generated.ids)) for r in fleet.stage.requests]
    assert sent == [(1, []), (2, ids[:2]), (3, ids[:4])]
    assert len({r.sampling.seed for r in fleet.stage.requests}) == 1
    lost = [(lost.attempt, lost.incarnation) for lost in fleet.router.lost]
    assert lost == [(1, "i1"), (2, "i2")]


@pytest.mark.parametrize(("max_tokens", "reason"), [(100, "stop"), (2, "length")])
async def test_a_reply_that_lacks_only_its_finish_is_finished(
    fleet: Any, client: AsyncOpenAI, max_tokens: int, reason: str
) -> None:
    """The head dies between the last token and the word that it was the last."""
    fleet.says("one two three")
    fleet.stage.finishes = False
    answer = await client.chat.completions.create(
        model="auto", messages=HELLO, max_tokens=max_tokens
    )
    assert answer.choices[0].finish_reason == reason
    assert len(fleet.stage.requests) == 1
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


async def test_a_head_that_hangs_is_noticed_and_replaced(start_fleet: Any) -> None:
    async with start_fleet(stage_silence_s=0.1) as fleet:
        fleet.says("one two three")
        undisturbed = await said(fleet.url)
        fleet.router.plan_count = 2
        fleet.stage.hold, fleet.stage.is_mute = 2, True
        reply = asyncio.create_task(said(fleet.url))
        await fleet.stage.is_holding.wait()
        fleet.stage.hold = None
        assert await reply == undisturbed
        assert fleet.router.lost[0].reason == "STAGE_SILENT"
        await fleet.stage.is_cancelled.wait()


async def test_a_head_that_has_nothing_to_say_is_not_given_up(start_fleet: Any) -> None:
    """It says that it lives for several times as long as silence is borne."""
    async with start_fleet(stage_silence_s=0.1) as fleet:
        fleet.stage.hold = 1
        reply = asyncio.create_task(said(fleet.url))
        await fleet.stage.is_holding.wait()
        async with asyncio.timeout(20):
            while fleet.stage.alive_count < 16:
                await fleet.stage.is_alive.wait()
                fleet.stage.is_alive.clear()
        fleet.stage.hold = None
        assert "error" not in (await reply)[-1]
        assert fleet.router.lost == []


@pytest.mark.parametrize("error", [DeadlineExceeded("time is up"), Overloaded("too many")])
async def test_what_no_other_plan_would_change_is_not_asked_again(fleet: Any, error: Any) -> None:
    fleet.router.plan_count = 3
    fleet.stage.refusal = error
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(f"{fleet.url}/v1/chat/completions", json={"messages": HELLO}) as response,
    ):
        assert response.status == error.http_status
    assert len(fleet.stage.requests) == 1
    assert fleet.router.lost == []


async def test_pipelines_that_add_tokens_do_not_count_as_tried_in_vain(fleet: Any) -> None:
    fleet.says("one two three four five six seven")
    undisturbed = await said(fleet.url)
    fleet.router.plan_count = 7
    fleet.stage.fail_at = [1, 2, 3, 4, 5, 6]
    assert await said(fleet.url) == undisturbed


async def test_a_router_that_is_lost_and_back_gives_another_plan(start_fleet: Any) -> None:
    """The new router knows of no loss: it plans the lost stage once more, and is told."""
    async with start_fleet(replan_timeout_s=20.0) as fleet:
        fleet.says("one two three")
        undisturbed = await said(fleet.url)
        fleet.stage.hold, fleet.stage.fail_at = 2, [3]
        reply = asyncio.create_task(said(fleet.url))
        await fleet.stage.is_holding.wait()
        await fleet.router_server.stop()
        router = FakeRouter()
        router.stage_locator, router.plan_count = fleet.router.stage_locator, 2
        server = RpcServer(fleet.router_server.address, drain_timeout_s=0.1)
        server.add(router_pb2_grpc.add_RouterServiceServicer_to_server, router)
        async with server:
            fleet.stage.hold = None
            assert await reply == undisturbed
        assert [(lost.attempt, lost.incarnation) for lost in router.lost] == [(1, "i1")]


async def test_a_request_that_finds_no_router_waits_until_there_is_one(start_fleet: Any) -> None:
    async with start_fleet(router_wait_s=20.0) as fleet:
        fleet.says("one two three")
        await fleet.router_server.stop()
        has_called = asyncio.Event()

        async def turn_away(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            has_called.set()
            writer.close()

        host, _, port = fleet.router_server.address.rpartition(":")
        async with await asyncio.start_server(turn_away, host, int(port)):
            reply = asyncio.create_task(said(fleet.url))
            await has_called.wait()
        server = RpcServer(fleet.router_server.address, drain_timeout_s=0.1)
        server.add(router_pb2_grpc.add_RouterServiceServicer_to_server, fleet.router)
        async with server:
            assert await reply == await said(fleet.url)


async def test_time_in_which_this_process_stood_still_is_nobodys_silence() -> None:
    cancelled: list[bool] = []
    silence = Silence(lambda: cancelled.append(True), alive_s=1.0, idle_s=60.0)
    silence.is_waiting = True
    for _ in range(4):
        silence._look()
    assert cancelled == []
    silence.heard(carries_on=False)
    silence.is_waiting = True
    for _ in range(5):
        silence._look()
    assert cancelled == [True]
    assert silence.exceeded_s == 1.0
    silence.close()
