"""Timed streams over real HTTP, and prompts."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.streams import HttpClient, Timed, decode_rate, random_ids

USAGE = {"completion_tokens": 4, "prompt_tokens": 9}


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def answer(request: web.Request) -> web.StreamResponse:
    """Three pieces of text, of which one is empty, in the form the path asks for."""
    body = await request.json()
    assert body["stream"] is True
    if body.get("fails"):
        return web.json_response({"error": "no"}, status=429)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for text in ("", "a", "b"):
        choice = {"delta": {"content": text}} if "chat" in request.path else {"text": text}
        await response.write(event({"choices": [choice]}))
    if body.get("breaks"):
        await response.write(event({"error": {"message": "lost"}}))
    await response.write(b": comment\n\n" + event({"choices": [], "usage": USAGE}))
    await response.write(b"data: [DONE]\n\n")
    return response


@pytest.fixture
async def url() -> object:
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    yield str(server.make_url("")).rstrip("/")
    await server.close()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_pieces_are_timed_and_usage_is_read(url: str, path: str) -> None:
    async with HttpClient(url, "key") as client:
        timed = await client.stream(path, {})
    assert len(timed.times) == 2
    assert timed.sent_at < timed.times[0] <= timed.times[1]
    assert (timed.token_count, timed.prompt_count) == (4, 9)


@pytest.mark.parametrize("how", ["fails", "breaks"])
async def test_an_error_is_not_a_result(url: str, how: str) -> None:
    async with HttpClient(url) as client:
        with pytest.raises(RuntimeError, match="429" if how == "fails" else "lost"):
            await client.stream("/v1/chat/completions", {how: True})


def test_times_of_a_stream() -> None:
    timed = Timed(sent_at=1.0, times=[1.5, 2.0, 3.5], token_count=5)
    assert timed.first_s == 0.5
    assert timed.gaps_s == [0.5, 1.5]
    assert timed.token_s == 0.5
    timed.ended_at = 5.5
    assert timed.token_s == 1.0


def stream(start: float, stop: float, count: int) -> Timed:
    return Timed(0.0, [start, (start + stop) / 2, stop], token_count=count)


def test_decode_rate_of_streams_in_a_row_leaves_the_waiting_out() -> None:
    assert decode_rate([stream(10, 12, 5), stream(1, 3, 5)]) == 2.0


def test_decode_rate_of_streams_at_once_counts_shared_time_once() -> None:
    assert decode_rate([stream(1, 5, 9), stream(2, 4, 5), stream(4, 6, 9)]) == 4.0


def test_a_prompt_is_new_unless_it_has_a_seed() -> None:
    assert random_ids(32, 1000) != random_ids(32, 1000)
    assert random_ids(32, 1000, seed=3) == random_ids(32, 1000, seed=3)
    assert all(100 <= token < 1000 for token in random_ids(500, 1000))
