"""Responses of models that Anthropic answers for, and those handed on to OpenAI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from shoal_common.testing.redis import RedisProcess
from shoal_gateway.providers.testing import (
    FakeProvider,
    anthropic_stream,
    anthropic_text,
    fake_provider,
    whole,
)

KEY = "k" * 64
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


@dataclass
class House:
    client: openai.AsyncOpenAI
    provider: FakeProvider


@pytest.fixture
async def house(
    start_fleet: Any, redis: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-secret")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    async with fake_provider() as provider:
        urls = dict.fromkeys(("openai", "anthropic"), provider.url)
        async with (
            start_fleet(redis_url=redis.url, provider_base_urls=urls) as fleet,
            openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0) as client,
        ):
            yield House(client, provider)


async def test_thoughts_and_calls_go_to_anthropic_and_back(house: House) -> None:
    house.provider.says(
        anthropic_stream(
            (
                {"type": "thinking", "thinking": "", "signature": ""},
                [
                    {"type": "thinking_delta", "thinking": "hm"},
                    {"type": "signature_delta", "signature": "c2ln"},
                ],
            ),
            (
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}},
                [{"type": "input_json_delta", "partial_json": '{"city":"Rome"}'}],
            ),
            stop_reason="tool_use",
        ),
        anthropic_stream(anthropic_text("It ", "rains.")),
    )
    asked: Any = {"model": "claude-sonnet-4-6", "tools": [WEATHER]}
    asked["reasoning"] = {"effort": "low"}
    async with house.client.responses.stream(input="Weather in Rome?", **asked) as stream:
        first = await stream.get_final_response()
    assert [item.type for item in first.output] == ["reasoning", "function_call"]
    told: Any = [{"type": "function_call_output", "call_id": "toolu_1", "output": "rain"}]
    second = await house.client.responses.create(input=told, previous_response_id=first.id, **asked)
    assert second.output_text == "It rains."
    _, seen = house.provider.seen
    assert seen.path == "/v1/messages"
    turn = seen.body["messages"][1]
    assert turn["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "get_weather",
            "input": {"city": "Rome"},
        },
    ]
    assert seen.body["messages"][2]["content"][0]["tool_use_id"] == "toolu_1"


async def test_a_background_answer_may_come_from_a_provider(house: House) -> None:
    house.provider.says(anthropic_stream(anthropic_text("far")))
    made = await house.client.responses.create(
        model="claude-sonnet-4-6", input="hi", background=True
    )
    stream = await house.client.responses.retrieve(made.id, stream=True)
    assert [event.type async for event in stream][-1] == "response.completed"
    assert (await house.client.responses.retrieve(made.id)).output_text == "far"


async def test_openai_s_own_models_are_handed_on(house: House) -> None:
    answer = {"id": "resp_far", "object": "response", "status": "completed", "output": []}
    house.provider.says(whole(answer))
    asked: Any = {"tools": [{"type": "web_search"}], "conversation": "conv_1"}
    found = await house.client.responses.create(model="gpt-5", input="hi", **asked)
    assert found.id == "resp_far"
    (seen,) = house.provider.seen
    assert seen.path == "/v1/responses"
    assert seen.body == {"model": "gpt-5", "input": "hi"} | asked
