"""Several answers to one prompt, and fields that change nothing, by OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from shoal_gateway.dialects.openai_render import ChatEnvelope, ChatStream
from shoal_gateway.task import TextDelta

KEY = "k" * 64
HELLO: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def client(fleet: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


async def test_choices_share_a_prompt_and_have_seeds_of_their_own(
    fleet: Any, client: AsyncOpenAI
) -> None:
    answer = await client.chat.completions.create(
        model="auto", messages=HELLO, n=3, seed=2**63 - 1, temperature=0
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    requests = fleet.stage.requests
    assert sorted(request.sampling.seed - 2**63 for request in requests) == [-1, 0, 1]
    [prompt] = {tuple(request.token_ids.ids) for request in requests}
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == 3 * (len(fleet.stage.reply_ids) + 1)
    assert answer.system_fingerprint == "fp_r1"


async def test_streamed_choices_are_accumulated(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("one two three")
    async with client.chat.completions.stream(
        model="auto", messages=HELLO, n=3, stream_options={"include_usage": True}
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["one two three"] * 3
    assert {choice.finish_reason for choice in final.choices} == {"stop"}
    assert final.usage is not None
    assert final.usage.completion_tokens == 3 * (len(fleet.stage.reply_ids) + 1)


def test_choices_begin_in_order_whoever_speaks_first() -> None:
    stream = ChatStream(ChatEnvelope("id", 0, "m"), choice_count=3, wants_usage=False)
    lines = stream.feed((2, TextDelta("hi"))).decode().splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line]
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 1, 2, 2]
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks[:3]] == ["assistant"] * 3


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}])
async def test_no_chunk_has_a_usage_key_unless_asked(fleet: Any, options: Any) -> None:
    body = {"messages": HELLO, "stream": True, "stream_options": options}
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(f"{fleet.url}/v1/chat/completions", json=body) as response,
    ):
        lines = (await response.text()).split("\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert len(chunks) > 2
    assert not any("usage" in chunk for chunk in chunks)


async def test_bookkeeping_fields_are_accepted_even_strictly(start_fleet: Any) -> None:
    async with (
        start_fleet(strict_compat=True) as fleet,
        AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0) as client,
    ):
        answer = await client.chat.completions.create(
            model="auto",
            messages=HELLO,
            user="u",
            metadata={"a": "b"},
            store=False,
            service_tier="auto",
            safety_identifier="s",
            prompt_cache_key="p",
            verbosity="low",
            modalities=["text"],
        )
    assert answer.choices[0].message.content == "hello"
