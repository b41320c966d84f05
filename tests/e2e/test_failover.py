"""Engines of a real fleet are killed and stopped while they answer: no client sees a difference.

Two pipelines of two stages. Five kinds of replies run at once; whoever computes for the first of
them is struck when a given number of its chunks has come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import psutil
import pytest
from openai import AsyncOpenAI

from shoal.worker.v1 import pipeline_pb2
from shoal_common.testing.waiting import eventually_told
from tests.e2e.driving import Driver
from tests.e2e.fleet import Fleet, fleet_up
from tests.e2e.replies import Said, Stream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

MODEL = "heavyweight"
STORY = "Tell me a story."
SHARDS = "0-2,3-5,0-2,3-5"
# Ends of turns, so that replies are as long as they are allowed to be.
NO_END = {"0": -100, "2": -100}
GAP_MAX_S = 10.0
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 30, "maxLength": 60},
                "days": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 1, "maximum": 999},
                    "minItems": 12,
                    "maxItems": 12,
                },
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
NUMBERS: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "numbers",
        "strict": True,
        "schema": {
            "type": "array",
            "items": {"type": "integer", "minimum": 10, "maximum": 9999},
            "minItems": 30,
            "maxItems": 30,
        },
    },
}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "logit_bias": NO_END, "max_tokens": 160},
    "sampled": {"temperature": 0.9, "seed": 7, "logit_bias": NO_END, "max_tokens": 160},
    "logprobs": {
        "temperature": 0.7,
        "seed": 11,
        "logprobs": True,
        "top_logprobs": 3,
        "frequency_penalty": 0.4,
        "logit_bias": NO_END,
        "max_tokens": 120,
    },
    "schema": {"temperature": 1.0, "seed": 3, "response_format": NUMBERS, "max_tokens": 400},
    "tool": {
        "temperature": 1.0,
        "seed": 5,
        "tools": [WEATHER],
        "tool_choice": "required",
        "max_tokens": 400,
    },
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_up(folder, models=[MODEL], shards=SHARDS, timeout_s=240) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Said]:
    """What each kind says when nothing is lost; filled by the first test that asks."""
    return {}


@pytest.fixture
async def expected(
    fleet: Fleet, client: AsyncOpenAI, driver: Driver, undisturbed: dict[str, Said]
) -> dict[str, Said]:
    """The replies to expect, with both pipelines whole."""
    await until_whole(driver)
    for kind, fields in KINDS.items():
        if kind not in undisturbed:
            undisturbed[kind] = await Stream(client, MODEL, STORY, fields).to_end()
    return undisturbed


async def until_whole(driver: Driver) -> None:
    """Wait until every worker's engine is ready and nobody computes."""

    async def all_ready() -> bool:
        states = [
            engine.state
            for worker in (await driver.fleet()).workers
            if worker.is_alive
            for engine in worker.beat.engines
        ]
        return states == [pipeline_pb2.ENGINE_STATE_READY] * 4

    await eventually_told(all_ready, 90)
    await driver.until_free(20)


@asynccontextmanager
async def stopped(process: psutil.Process) -> AsyncIterator[None]:
    """The process hangs for as long as the context lasts, and comes back as if nothing were."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def crowd(client: AsyncOpenAI) -> dict[str, asyncio.Task[Said]]:
    """All other kinds, beside the first one."""
    return {
        kind: asyncio.create_task(Stream(client, MODEL, STORY, fields).to_end())
        for kind, fields in KINDS.items()
        if kind != "greedy"
    }


async def check(
    first: Stream, others: dict[str, asyncio.Task[Said]], expected: dict[str, Said]
) -> None:
    replies = {"greedy": first.said} | {kind: await task for kind, task in others.items()}
    for kind, said in replies.items():
        said.assert_same(expected[kind])
        assert said.gap_s < GAP_MAX_S, kind


@pytest.mark.parametrize(
    ("stage", "moment"),
    [(1, 40), pytest.param(0, 80, marks=pytest.mark.slow)],
    ids=["last hangs", "head hangs"],
)
async def test_a_stage_that_hangs_and_comes_back_changes_nothing(
    fleet: Fleet,
    client: AsyncOpenAI,
    driver: Driver,
    expected: dict[str, Said],
    stage: int,
    moment: int,
) -> None:
    first = Stream(client, MODEL, STORY, KINDS["greedy"])
    others = crowd(client)
    chunks = first.chunks()
    async for count in chunks:
        if count == moment:
            break
    async with stopped(fleet.engine_of(first.route[stage])):
        # Going on behind the stopped engine, and well on: it comes back into a stream that runs.
        async for count in chunks:
            if count == moment + 30:
                break
    async for _ in chunks:
        pass
    await check(first, others, expected)
    await driver.until_free(20)


@pytest.mark.parametrize(
    ("stage", "moment"),
    [pytest.param(1, 1, marks=pytest.mark.slow), (0, 160)],
    ids=["last, first token", "head, last token"],
)
async def test_a_stage_that_is_killed_changes_nothing(
    fleet: Fleet,
    client: AsyncOpenAI,
    driver: Driver,
    expected: dict[str, Said],
    stage: int,
    moment: int,
) -> None:
    first = Stream(client, MODEL, STORY, KINDS["greedy"])
    others = crowd(client)
    async for count in first.chunks():
        if count == moment:
            fleet.engine_of(first.route[stage]).kill()
    await check(first, others, expected)


async def test_two_that_are_killed_in_a_row_change_nothing(
    fleet: Fleet, client: AsyncOpenAI, expected: dict[str, Said]
) -> None:
    """The last stage while a prompt is read; then the first one of who has taken over."""
    prompt = "one two three four five " * 120
    fields = KINDS["greedy"] | {"max_tokens": 40}
    first = Stream(client, MODEL, STORY, KINDS["greedy"])
    reading = asyncio.create_task(Stream(client, MODEL, prompt, fields).to_end())
    async for count in first.chunks():
        if count == 2:
            fleet.engine_of(first.route[1]).kill()
        if count == 60:
            fleet.engine_of(first.route[0]).kill()
    first.said.assert_same(expected["greedy"])
    assert first.said.gap_s < GAP_MAX_S
    # Asked again only now: nobody had read the prompt before.
    (await reading).assert_same(await Stream(client, MODEL, prompt, fields).to_end())


async def test_with_nobody_left_the_stream_ends_in_an_error_soon(
    fleet: Fleet, client: AsyncOpenAI, driver: Driver, expected: dict[str, Said]
) -> None:
    stream = Stream(client, MODEL, STORY, KINDS["greedy"] | {"max_tokens": 1000})
    chunks = stream.chunks()
    async for count in chunks:
        if count == 20:
            break
    for worker in ("worker-2", "worker-4"):
        fleet.engine_of(worker).kill()
    struck_at = time.monotonic()
    with pytest.raises(openai.APIError):
        await drained(chunks)
    assert time.monotonic() - struck_at < GAP_MAX_S
    assert stream.said.finish == ""
    assert expected["greedy"].text.startswith(stream.said.text[: len(expected["greedy"].text)])


async def drained(chunks: AsyncIterator[int]) -> None:
    async for _ in chunks:
        pass
