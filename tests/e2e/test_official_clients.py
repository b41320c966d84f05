"""What vendors' own clients make of the real fleet: their accumulators break on a bad delta."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import httpx2
import openai
import pytest
from anthropic import AsyncAnthropic
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.e2e.driving import SUITE, Driver
from tests.e2e.fleet import Fleet, fleet_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
WEATHER = next(prompt for prompt in SUITE["prompts"] if prompt["id"] == "tool-1")
PIXEL = "data:image/png;base64,iVBORw0KGgo="
STREAM_COUNT = 200


class City(BaseModel):
    """Small enough that a model of five million parameters comes to its end."""

    name: Literal["Paris", "Rome"]
    is_large: bool


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two stages, and a queue that a crowd fits in."""
    folder = tmp_path_factory.mktemp("fleet")
    environment = {"SHOAL_ROUTER_WAITING_MAX": str(STREAM_COUNT)}
    with fleet_up(
        folder, models=["heavyweight"], workers=2, split=True, environment=environment
    ) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def tiny_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One request at a time, and nobody may wait."""
    folder = tmp_path_factory.mktemp("tiny")
    environment = {"SHOAL_ROUTER_IN_FLIGHT_MAX": "1", "SHOAL_ROUTER_WAITING_MAX": "0"}
    with fleet_up(folder, models=["heavyweight"], environment=environment) as fleet:
        yield fleet


@pytest.fixture
async def claude(fleet: Fleet) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=fleet.url, api_key=fleet.key, max_retries=0) as client:
        yield client


async def test_a_chat_whole_and_streamed(client: AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(
        model="heavyweight", messages=QUESTION, temperature=0
    )
    assert whole.choices[0].message.content == ANSWER
    async with client.chat.completions.stream(
        model="heavyweight",
        messages=QUESTION,
        temperature=0,
        n=3,
        seed=7,
        logprobs=True,
        top_logprobs=2,
        stream_options={"include_usage": True},
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == [ANSWER] * 3
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.prompt_tokens == whole.usage.prompt_tokens
    assert final.usage.completion_tokens == 3 * whole.usage.completion_tokens
    for choice in final.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        said = b"".join(bytes(entry.bytes or []) for entry in choice.logprobs.content)
        assert said.decode() == ANSWER


async def test_the_same_seed_draws_the_same_words(client: AsyncOpenAI) -> None:
    async def draw(seed: int) -> tuple[str | None, str | None]:
        answer = await client.chat.completions.create(
            model="heavyweight", messages=QUESTION, temperature=2, seed=seed, max_tokens=24
        )
        return answer.choices[0].message.content, answer.system_fingerprint

    first, again, other = [await draw(seed) for seed in (1, 1, 2)]
    assert first == again
    assert first[0] != other[0]
    assert first[1]


async def test_an_answer_is_parsed_into_a_model(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model="heavyweight", messages=QUESTION, response_format=City, temperature=0, max_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, City)


async def test_a_demanded_tool_is_called(client: AsyncOpenAI) -> None:
    request: Any = {
        "model": "heavyweight",
        "messages": WEATHER["messages"],
        "tools": WEATHER["tools"],
        "tool_choice": "required",
        "temperature": 0,
    }
    whole = await client.chat.completions.create(**request)
    assert whole.choices[0].finish_reason == "tool_calls"
    async with client.chat.completions.stream(**request) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    for choice in (whole.choices[0], final.choices[0]):
        assert choice.message.tool_calls is not None
        call: Any = choice.message.tool_calls[0]
        assert call.function.name == "get_weather"
        assert "Nairobi" in call.function.arguments


async def test_older_completions_go_on_from_a_prompt(client: AsyncOpenAI) -> None:
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    answer = await client.completions.create(
        model="heavyweight", prompt=[prompt, prompt], temperature=0, max_tokens=30, logprobs=1
    )
    assert [choice.text for choice in answer.choices] == [ANSWER] * 2


async def test_models_and_refusals(client: AsyncOpenAI) -> None:
    models = [model.id async for model in client.models.list()]
    assert models == ["heavyweight"]
    assert (await client.models.retrieve("heavyweight")).id == "heavyweight"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("other")
    parts: Any = [{"type": "image_url", "image_url": {"url": PIXEL}}]
    with pytest.raises(openai.BadRequestError, match="text only"):
        await client.chat.completions.create(
            model="heavyweight", messages=[{"role": "user", "content": parts}]
        )


async def test_retries_outlast_a_full_queue(tiny_fleet: Fleet) -> None:
    def connect(max_retries: int) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=f"{tiny_fleet.url}/v1", api_key=tiny_fleet.key, max_retries=max_retries
        )

    async with connect(0) as impatient, connect(8) as patient:
        holder = await impatient.chat.completions.create(
            model="heavyweight",
            messages=QUESTION,
            stream=True,
            max_tokens=2048,
            logit_bias={"2": -100, "0": -100},
        )
        await anext(aiter(holder))
        with pytest.raises(openai.RateLimitError) as refused:
            await impatient.chat.completions.create(model="heavyweight", messages=QUESTION)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        waiting = asyncio.create_task(
            patient.chat.completions.with_raw_response.create(
                model="heavyweight", messages=QUESTION, temperature=0
            )
        )
        # It must have been refused once before there is room.
        await asyncio.wait({waiting}, timeout=0.5)
        assert not waiting.done()
        await holder.close()
        answer = await waiting
    assert answer.retries_taken >= 1
    assert answer.parse().choices[0].message.content == ANSWER


async def test_anthropics_client_whole_and_streamed(claude: AsyncAnthropic) -> None:
    whole = await claude.messages.create(model="heavyweight", max_tokens=30, messages=QUESTION)
    assert whole.content[0].type == "text"
    assert whole.content[0].text == ANSWER
    async with claude.messages.stream(
        model="heavyweight", max_tokens=30, messages=QUESTION
    ) as stream:
        assert "".join([text async for text in stream.text_stream]) == ANSWER
        final = await stream.get_final_message()
    counted = await claude.messages.count_tokens(model="heavyweight", messages=QUESTION)
    assert final.usage.output_tokens == whole.usage.output_tokens
    read = final.usage.cache_read_input_tokens or 0
    assert final.usage.input_tokens + read == counted.input_tokens


async def test_a_response_streams_to_its_end(client: AsyncOpenAI) -> None:
    async with client.responses.stream(
        model="heavyweight", input="What is the capital of France?", temperature=0, store=False
    ) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == ANSWER


async def test_the_tools_of_mcp_answer(fleet: Fleet) -> None:
    headers = {"Authorization": f"Bearer {fleet.key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{fleet.url}/mcp", http_client=http)) as session,
    ):
        arguments = {"model": "heavyweight", "messages": QUESTION, "temperature": 0}
        result = await session.call_tool("chat", arguments)
    assert not result.is_error
    assert ANSWER in str(result.content[0])


async def test_half_of_a_crowd_leaves_and_no_kv_stays(client: AsyncOpenAI, driver: Driver) -> None:
    async def stream(index: int) -> str:
        chunks = await client.chat.completions.create(
            model="heavyweight", messages=QUESTION, temperature=0, stream=True
        )
        text = ""
        async for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
            if text and index % 2:
                await chunks.close()
                return "left"
        return text

    replies = await asyncio.gather(*(stream(index) for index in range(STREAM_COUNT)))
    assert replies.count("left") == STREAM_COUNT // 2
    assert set(replies) == {"left", ANSWER}
    await driver.until_free(timeout_s=30)
