"""Two stages as separate processes behind the gateway, driven by the official client."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from tests.e2e.driving import SUITE, Driver, prompt_ids
from tests.e2e.fleet import MODELS, Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with fleet_up(folder, models=["heavyweight"], workers=2, split=True) as fleet:
        yield fleet


async def ask(client: AsyncOpenAI, text: str) -> str:
    reply = await client.chat.completions.create(
        model="heavyweight", messages=[{"role": "user", "content": text}], temperature=0
    )
    return reply.choices[0].message.content or ""


async def test_two_stages_give_the_tokens_of_transformers(driver: Driver) -> None:
    """20 prompts x 64 tokens, eight at a time."""
    gate = asyncio.Semaphore(8)

    async def one(prompt: dict[str, object]) -> list[int]:
        async with gate:
            ids = prompt_ids(MODELS / "heavyweight", prompt)
            return await driver.generate("heavyweight", ids, SUITE["new_tokens"])

    replies = await asyncio.gather(*(one(prompt) for prompt in SUITE["prompts"]))
    for prompt, reply in zip(SUITE["prompts"], replies, strict=True):
        assert reply == prompt["greedy"]["heavyweight"], prompt["id"]
    await driver.until_free()


async def test_cancelled_chats_leave_the_others_and_free_their_kv(
    client: AsyncOpenAI, driver: Driver
) -> None:
    async def stream(index: int) -> str:
        chunks = await client.chat.completions.create(
            model="heavyweight",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            stream=True,
        )
        text = ""
        async for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
            if index % 4 == 3 and text:
                await chunks.close()
                return "cancelled"
        return text

    replies = await asyncio.gather(*(stream(index) for index in range(8)))
    assert replies.count("cancelled") == 2
    assert set(replies) == {"cancelled", "The capital of France is Paris."}
    await driver.until_free()


async def test_a_killed_worker_ends_its_request_and_comes_back(
    fleet: Fleet, client: AsyncOpenAI, driver: Driver
) -> None:
    """SIGKILL of the last stage's engine mid-stream."""
    chunks = await endless(client)
    fleet.engine_of("worker-2").send_signal(signal.SIGKILL)
    await ends_with_an_error(chunks)
    assert await ask_until_answered(client) == "The capital of France is Paris."
    await driver.until_free()


async def test_a_killed_agent_ends_its_requests_and_comes_back(
    fleet: Fleet, client: AsyncOpenAI, driver: Driver
) -> None:
    """SIGKILL of the first stage's agent mid-stream: the kernel takes its engine along."""
    chunks = await endless(client)
    engine, agent = fleet.engine_of("worker-1"), fleet.service("worker-1")
    agent.kill()
    await ends_with_an_error(chunks)
    assert await ask_until_answered(client) == "The capital of France is Paris."
    assert not engine.is_running()
    assert fleet.service("worker-1").pid != agent.pid
    await driver.until_free()


async def endless(client: AsyncOpenAI) -> openai.AsyncStream[ChatCompletionChunk]:
    """A stream that has begun and would go on for thousands of tokens."""
    chunks = await client.chat.completions.create(
        model="heavyweight",
        messages=[{"role": "user", "content": "Tell me a joke."}],
        temperature=1.5,
        max_tokens=2048,
        logit_bias={"2": -100, "0": -100},
        stream=True,
    )
    async for chunk in chunks:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    return chunks


async def ends_with_an_error(chunks: openai.AsyncStream[ChatCompletionChunk]) -> None:
    """The stream's last event is an error that the official client understands, in time."""
    killed_at = time.monotonic()
    with pytest.raises(openai.APIError) as failure:
        await drained(chunks)
    assert time.monotonic() - killed_at < 3
    assert failure.value.message
    assert failure.value.type or failure.value.code


async def drained(chunks: openai.AsyncStream[ChatCompletionChunk]) -> None:
    async for _ in chunks:
        pass


async def ask_until_answered(client: AsyncOpenAI) -> str:
    """The first answer after the fleet has said that it cannot serve."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask(client, "What is the capital of France?")
            except openai.InternalServerError as err:
                if err.status_code != 503:
                    raise


async def test_an_overlong_prompt_says_tokens_and_limit(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"the prompt has \d+ tokens.*4096"):
        await ask(client, "one two three " * 3000)


def test_data_folder_keeps_its_secrets(fleet: Fleet) -> None:
    for name in ("api_key", "fleet_token"):
        path: Path = fleet.data_dir / name
        assert path.stat().st_mode & 0o777 == 0o600
