"""Providers of both dialects behind the messages routes, as Anthropic's own client sees them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic

from shoal_gateway.providers.testing import (
    DONE,
    FakeProvider,
    Reply,
    anthropic_stream,
    chunk,
    fake_provider,
    openai_stream,
    whole,
)

KEY = "k" * 64
HELLO: Any = [{"role": "user", "content": "hi"}]
WEATHER: Any = {"name": "f", "input_schema": {"type": "object"}}


@dataclass
class House:
    """A gateway with one provider behind it that plays OpenAI and Anthropic."""

    client: AsyncAnthropic
    provider: FakeProvider


@pytest.fixture
async def house(start_fleet: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-secret")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    async with fake_provider() as provider:
        urls = dict.fromkeys(("openai", "anthropic"), provider.url)
        async with (
            start_fleet(provider_base_urls=urls) as fleet,
            AsyncAnthropic(base_url=fleet.url, api_key=KEY, max_retries=0) as client,
        ):
            yield House(client, provider)


async def read(client: AsyncAnthropic, **fields: Any) -> Any:
    """What the client's accumulator makes of a stream."""
    asked: dict[str, Any] = {"messages": HELLO, "max_tokens": 64} | fields
    async with client.messages.stream(**asked) as stream:
        async for event in stream:
            if event.type == "message_start":
                assert event.message.usage.input_tokens > 0
        return await stream.get_final_message()


async def test_calls_of_an_openai_model_that_come_mixed(house: House) -> None:
    def call(index: int, **fields: Any) -> bytes:
        return chunk({"tool_calls": [{"index": index} | fields]})

    house.provider.says(
        Reply(
            [
                chunk({"role": "assistant", "content": "look"}),
                call(0, id="a", type="function", function={"name": "f", "arguments": ""}),
                call(1, id="b", type="function", function={"name": "f", "arguments": '{"y":'}),
                call(0, function={"arguments": '{"x": 1}'}),
                call(1, function={"arguments": " 2}"}),
                chunk({}, finish_reason="tool_calls"),
                DONE,
            ]
        )
    )
    message = await read(house.client, model="gpt-4o", tools=[WEATHER])
    assert message.stop_reason == "tool_use"
    assert [getattr(block, "input", None) for block in message.content] == [
        None,
        {"x": 1},
        {"y": 2},
    ]


async def test_thoughts_of_an_anthropic_model_keep_their_signature(house: House) -> None:
    start = {"type": "thinking", "thinking": "", "signature": ""}
    house.provider.says(
        anthropic_stream(
            (
                start,
                [
                    {"type": "thinking_delta", "thinking": "hm"},
                    {"type": "signature_delta", "signature": "sig"},
                ],
            ),
            ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "so"}]),
        )
    )
    message = await read(house.client, model="claude-reef")
    blocks = [block.model_dump(exclude_none=True) for block in message.content]
    assert blocks[0] == {"type": "thinking", "thinking": "hm", "signature": "sig"}
    assert blocks[1]["text"] == "so"
    back = [*HELLO, {"role": "assistant", "content": blocks}, *HELLO]
    await read(house.client, model="claude-reef", messages=back)
    sent = house.provider.seen[-1].body["messages"][1]["content"]
    assert sent[0] == {"type": "thinking", "thinking": "hm", "signature": "sig"}


async def test_an_openai_stream_has_usage_at_its_end(house: House) -> None:
    house.provider.says(openai_stream("Hel", "lo"))
    message = await read(house.client, model="gpt-4o")
    assert [block.text for block in message.content] == ["Hello"]
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (11, 8, 10)


async def test_a_providers_refusal_is_the_clients_own_class(house: House) -> None:
    error = {"error": {"message": "slow down", "type": "rate_limit_error"}}
    house.provider.says(whole(error, status=429))
    with pytest.raises(anthropic.RateLimitError):
        await read(house.client, model="gpt-4o")
    body = json.dumps(house.provider.seen[0].body)
    assert KEY not in body
