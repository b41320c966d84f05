"""The mock provider, the load, and one quick comparison with our gateway as it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from bench.conditions import Conditions
from bench.figures import Report, Skipped
from bench.gateway import contenders, relays
from bench.gateway.environments import ensure
from bench.gateway.load import BadAnswer, Reply, closed_loop, percentile, request_bytes
from bench.gateway.upstream import Upstream

PATH = "/v1/chat/completions"


@pytest.fixture
async def provider() -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(0.001), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_the_provider_answers_as_openai_does(provider: str) -> None:
    async with aiohttp.ClientSession(provider) as session:
        async with session.post(PATH, json={"messages": []}) as response:
            answer = await response.json()
        async with session.get("/v1/models") as response:
            assert (await response.json())["object"] == "list"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 21


async def test_the_provider_streams_as_many_pieces_as_were_asked_for(provider: str) -> None:
    body = {"stream": True, "max_tokens": 3, "stream_options": {"include_usage": True}}
    async with (
        aiohttp.ClientSession(provider) as session,
        session.post(PATH, json=body) as response,
    ):
        text = await response.text()
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks.pop()["usage"]["completion_tokens"] == 12
    deltas = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert deltas == ["", " wave", " wave", " wave", None]


async def test_the_load_counts_answers_and_events(provider: str) -> None:
    whole = request_bytes(provider, PATH, {"max_tokens": 1})
    assert len(await closed_loop(provider, whole, count=7, at_once=3)) == 7
    stream = request_bytes(provider, PATH, {"max_tokens": 4, "stream": True})
    replies = await closed_loop(provider, stream, count=2, at_once=2, is_stream=True)
    # The role and the reason to stop are events too.
    assert [reply.event_count for reply in replies] == [6, 6]


async def test_another_answer_than_the_one_asked_for_is_an_error(provider: str) -> None:
    stream = request_bytes(provider, PATH, {"max_tokens": 4, "stream": True})
    with pytest.raises(BadAnswer, match="200 OK"):
        await closed_loop(provider, stream, count=1, at_once=1, is_stream=False)


def test_a_percentile_is_one_of_the_durations() -> None:
    replies = [Reply(duration_s, 0) for duration_s in (0.3, 0.1, 0.2)]
    assert percentile(replies, 0.5) == 0.2
    assert percentile(replies, 0.99) == 0.3


async def test_what_does_not_install_is_skipped_with_the_reason(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(Skipped, match="no-such-file"):
            await ensure("peer", ("./no-such-file.whl",), tmp_path)


@pytest.mark.e2e
async def test_a_quick_comparison_has_every_figure(tmp_path: Path) -> None:
    report = Report("relays")
    names = (contenders.DIRECT, contenders.OURS_OWN_MODEL)
    amounts = relays.Amounts(1, {1: 2, 4: 8}, streams=2, pieces=4, pace_s=0.001)
    await relays.compare(report, names, amounts, Conditions(tmp_path, is_quick=True))
    assert report.notes == []
    values = {figure.name: figure.value for figure in report.figures}
    assert len(values) == 2 * 3 + 1 + 1
    assert values[f"{contenders.OURS_OWN_MODEL}: CPU per POST, 4 at once"] > 0
    assert values[f"{contenders.OURS_OWN_MODEL}: memory after it"] > 0
