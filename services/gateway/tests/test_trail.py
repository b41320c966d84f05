"""What a reply tells of the way it went, and what a refusal tells of the queue."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from shoal.worker.v1 import stage_pb2
from shoal_common.errors import Overloaded
from shoal_gateway.http.trail import Trail
from shoal_gateway.task import Admitted, Finished, Route, StageTime, Usage

from .conftest import KEY, Fleet

ROUTE = "p1;node-a@0:6"
TIMES = 's0-queue;dur=0.25;desc="node-a@0:6", s0-compute;dur=12.5, s0-wire;dur=0'
COMMENT = f": x-shoal-route: {ROUTE}\n: server-timing: queue;dur=4, {TIMES}\n\n"
LAST_WORDS = {
    "/v1/chat/completions": "data: [DONE]",
    "/v1/completions": "data: [DONE]",
    "/v1/messages": "event: message_stop",
    "/v1/responses": "event: response.completed",
}
HEADERS = {"Authorization": f"Bearer {KEY}"}
MESSAGES = [{"role": "user", "content": "hi"}]
CHAT: dict[str, Any] = {"model": "heavyweight", "messages": MESSAGES, "max_tokens": 20}
PATHS = [
    ("/v1/chat/completions", CHAT),
    ("/v1/messages", CHAT),
    ("/v1/completions", {"model": "heavyweight", "prompt": "hi", "max_tokens": 20}),
    ("/v1/responses", {"model": "heavyweight", "input": "hi", "store": False}),
]


@pytest.fixture
def timed(fleet: Fleet) -> Fleet:
    """A fleet whose stage says how long it took."""
    spoken = fleet.stage._events

    async def events(request: Any) -> AsyncIterator[Any]:
        async for response in spoken(request):
            if response.HasField("admitted"):
                response.admitted.queued_ms = 4
            if response.HasField("finished"):
                response.finished.timings.add(
                    node_id="node-a", layer_stop=6, queue_us=250, compute_us=12500
                )
            yield response

    fleet.stage._events = events  # type: ignore[method-assign]
    return fleet


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str


async def post(fleet: Fleet, path: str, body: dict[str, Any]) -> Answer:
    async with (
        aiohttp.ClientSession(headers=HEADERS) as session,
        session.post(fleet.url + path, json=body) as reply,
    ):
        return Answer(reply.status, reply.headers, await reply.text())


@pytest.mark.parametrize(("path", "body"), PATHS)
async def test_a_whole_reply_names_its_stages_and_their_times(
    timed: Fleet, path: str, body: dict[str, Any]
) -> None:
    reply = await post(timed, path, body)
    assert reply.status == 200
    assert reply.headers["x-shoal-route"] == ROUTE
    assert reply.headers["server-timing"] == f"queue;dur=4, {TIMES}"


@pytest.mark.parametrize(("path", "body"), PATHS)
async def test_a_stream_names_its_stages_first_and_their_times_last(
    timed: Fleet, path: str, body: dict[str, Any]
) -> None:
    reply = await post(timed, path, body | {"stream": True})
    if path != "/v1/responses":  # Its head goes out before anything is planned.
        assert reply.headers["x-shoal-route"] == ROUTE
        assert reply.headers["server-timing"] == "queue;dur=4"
    _, told, after = reply.text.partition(COMMENT)
    assert told
    assert LAST_WORDS[path] in after


async def test_an_answer_leaves_a_line_with_the_time_of_each_stage(
    timed: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "shoal_gateway.http.trail")
    await post(timed, "/v1/chat/completions", CHAT)
    (line,) = [vars(record) for record in caplog.records if record.message == "answer timed"]
    assert (line["diag"], line["stages"], line["queued_ms"]) == ("timing", ["node-a@0:6"], 4)
    assert (line["queue_ms"], line["compute_ms"], line["wire_ms"]) == ([0.25], [12.5], [0])


async def test_openais_client_reads_past_the_times(timed: Fleet) -> None:
    async with AsyncOpenAI(base_url=f"{timed.url}/v1", api_key=KEY, max_retries=0) as client:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello"
        responses = await client.responses.create(
            model="heavyweight", input="hi", store=False, stream=True
        )
        assert [event.type async for event in responses][-1] == "response.completed"


async def test_anthropics_client_reads_past_the_times(timed: Fleet) -> None:
    async with AsyncAnthropic(base_url=timed.url, api_key=KEY, max_retries=0) as client:
        async with client.messages.stream(
            model="heavyweight", messages=[{"role": "user", "content": "hi"}], max_tokens=20
        ) as stream:
            assert "".join([text async for text in stream.text_stream]) == "hello"
        assert (await stream.get_final_message()).stop_reason == "end_turn"


async def test_a_reply_that_lost_a_pipeline_names_both(timed: Fleet) -> None:
    timed.router.plan_count = 2
    timed.stage.fail_at = [2]
    plan = timed.router._plan

    def renamed(attempt: int) -> Any:
        response = plan(attempt)
        response.plan.pipeline.pipeline_id = f"p{attempt}"
        return response

    timed.router._plan = renamed  # type: ignore[method-assign]
    reply = await post(timed, "/v1/chat/completions", CHAT)
    assert reply.headers["x-shoal-route"] == "p1;node-a@0:6, p2;node-a@0:6"


async def test_answers_without_a_route_say_nothing(fleet: Fleet) -> None:
    reply = await post(fleet, "/v1/chat/completions", CHAT | {"model": "nobody's"})
    assert reply.status == 404
    assert "x-shoal-route" not in reply.headers
    assert Trail().comment() == b""


@pytest.mark.parametrize(("path", "status"), [("/v1/chat/completions", 429), ("/v1/messages", 529)])
async def test_a_full_queue_tells_the_client_its_place_and_when_to_come_back(
    fleet: Fleet, path: str, status: int
) -> None:
    fleet.router.error = Overloaded("all 512 places of the queue are taken")
    vars(fleet.router.error).update(queue_position=41, retry_after_s=7.2)
    reply = await post(fleet, path, CHAT)
    assert reply.status == status
    assert reply.headers["Retry-After"] == "8"
    assert reply.headers["x-shoal-queue-position"] == "41"
    assert "all 512 places" in reply.text


def test_names_of_nodes_cannot_break_a_header() -> None:
    trail = Trail()
    node = 'a;b,c"d\\e\r\nSet-Cookie: x\u00e9'
    trail.note(Admitted(route=Route("p", (node,))))
    times = (StageTime(node, 1, 2, 3),)
    trail.note(Finished("stop", Usage(1, 1), times=times))
    route, timing = trail.headers().values()
    assert re.fullmatch(r"p;[!-~]+", route)
    assert route.count(";") == 1
    assert timing.count('"') == 2
    assert trail.comment().count(b"\n") == 3


def test_headers_stay_short_whatever_happens() -> None:
    trail = Trail()
    for choice in range(128):
        trail.note(Admitted(route=Route(f"p{choice}", ("n" * 64,) * 4)))
        trail.note(Finished("stop", Usage(1, 1), times=(StageTime("n" * 64, 1, 2, 3),) * 4))
    assert sum(map(len, trail.headers().values())) < 8000


def test_a_stage_without_times_is_left_out() -> None:
    assert stage_pb2.Finished().timings == []
    trail = Trail()
    trail.note(Admitted(route=Route("p", ("n@0:1",), queued_ms=3)))
    trail.note(Finished("stop", Usage(1, 1)))
    assert trail.headers() == {"x-shoal-route": "p;n@0:1", "Server-Timing": "queue;dur=3"}
