"""Providers as OpenAI's own client sees them through the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from shoal_gateway.providers.testing import (
    DONE,
    USAGE,
    FakeProvider,
    Reply,
    anthropic_event,
    anthropic_stream,
    anthropic_text,
    chunk,
    fake_provider,
    openai_stream,
    whole,
)

HELLO: Any = [{"role": "user", "content": "hi"}]
KEY = "k" * 64
# OpenAI itself calls that field otherwise, so the request is translated, not relayed.
TRANSLATED: Any = {"max_tokens": 500}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CONVERSATION: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "toolu_0",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "toolu_0", "content": "snow"},
    {"role": "user", "content": "And Rome?"},
]


@dataclass
class House:
    """A gateway with one provider behind it that plays OpenAI and Anthropic."""

    client: AsyncOpenAI
    provider: FakeProvider
    fleet: Any


@pytest.fixture
def start_house(start_fleet: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-secret")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[House]:
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(fake_provider())
            urls = dict.fromkeys(("openai", "anthropic", "groq"), provider.url)
            fleet = await stack.enter_async_context(
                start_fleet(provider_base_urls=urls, **settings)
            )
            client = await stack.enter_async_context(
                AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0)
            )
            yield House(client, provider, fleet)

    return start


@pytest.fixture
async def house(start_house: Any) -> AsyncIterator[House]:
    async with start_house() as house:
        yield house


def said(text: str) -> Reply:
    """A whole answer of an OpenAI-type provider."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m-2026-01"}
    return whole(head | {"choices": [choice], "usage": USAGE})


async def read_until_broken(stream: Any, words: str) -> list[str]:
    """The texts of a stream that must end with an error saying `words`."""
    texts = []

    async def read() -> None:
        async for part in stream:
            texts.append(part.choices[0].delta.content or "")

    with pytest.raises(openai.APIError, match=words):
        await read()
    return texts


async def test_a_whole_answer_is_asked_for_as_a_stream(house: House) -> None:
    house.provider.says(openai_stream("Hel", "lo"))
    answer = await house.client.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, max_tokens=7, temperature=0.3, user="me", seed=-1
    )
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-4o-mini"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (19, 10)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 8
    (seen,) = house.provider.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["Authorization"] == "Bearer sk-openai-secret"
    assert seen.body == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 7,
        "temperature": 0.3,
        "seed": -1,
    }
    assert KEY not in str(seen)


async def test_a_stream_with_the_clients_accumulator(house: House) -> None:
    house.provider.says(openai_stream("one ", "two"))
    async with house.client.chat.completions.stream(
        model="o3", messages=HELLO, stream_options={"include_usage": True}
    ) as stream:
        texts = [event.delta async for event in stream if event.type == "content.delta"]
        assert "".join(texts) == "one two"
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "one two"
    assert final.usage is not None
    assert final.usage.completion_tokens == 10


async def test_unknown_models_are_refused_by_the_fleet(house: House) -> None:
    with pytest.raises(openai.NotFoundError, match="known: heavyweight"):
        await house.client.chat.completions.create(model="nobody-knows", messages=HELLO)
    # A provider without a key is no provider.
    with pytest.raises(openai.NotFoundError, match="DEEPSEEK_API_KEY"):
        await house.client.chat.completions.create(model="deepseek-chat", messages=HELLO)
    assert house.provider.seen == []


async def test_the_fleets_own_models_come_first(house: House) -> None:
    answer = await house.client.chat.completions.create(model="heavyweight", messages=HELLO)
    assert answer.choices[0].message.content == "hello"
    assert house.provider.seen == []


async def test_tool_calls_without_proper_indexes_are_told_apart(house: House) -> None:
    def call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"index": 0, "id": call_id, "type": "function", "function": function}

    more = {"index": 0, "function": {"arguments": '"Rome"}'}}
    house.provider.says(
        Reply(
            [
                chunk({"tool_calls": [call("call_1", "get_weather", '{"city":')]}),
                chunk({"tool_calls": [more]}),
                chunk({"tool_calls": [call("call_2", "get_weather", '{"city":"Oslo"}')]}),
                chunk({}, "stop"),
                DONE,
            ]
        )
    )
    async with house.client.chat.completions.stream(
        model="gpt-4o", messages=HELLO, tools=[WEATHER], **TRANSLATED
    ) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert [(c.id, c.function.arguments) for c in calls] == [
        ("call_1", '{"city":"Rome"}'),
        ("call_2", '{"city":"Oslo"}'),
    ]
    assert final.choices[0].finish_reason == "tool_calls"
    assert house.provider.seen[0].body["tools"] == [WEATHER]


async def test_anthropic_behind_openais_dialect(house: House) -> None:
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    tool_use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
    house.provider.says(
        anthropic_stream(
            (
                thinking,
                [
                    {"type": "thinking_delta", "thinking": "hm"},
                    {"type": "signature_delta", "signature": "c2ln"},
                ],
            ),
            anthropic_text("It ", "rains."),
            (tool_use, [{"type": "input_json_delta", "partial_json": '{"city":"Rome"}'}]),
            ({"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}}, []),
            stop_reason="tool_use",
        )
    )
    async with house.client.chat.completions.stream(
        model="claude-sonnet-4-6", messages=CONVERSATION, tools=[WEATHER], temperature=1.5
    ) as stream:
        final = await stream.get_final_completion()
    message = final.choices[0].message
    assert message.content == "It rains."
    assert message.tool_calls is not None
    assert [(c.id, c.function.arguments) for c in message.tool_calls] == [
        ("toolu_1", '{"city":"Rome"}'),
        ("toolu_2", "{}"),
    ]
    (seen,) = house.provider.seen
    assert seen.path == "/v1/messages"
    assert seen.headers["x-api-key"] == "sk-ant-secret"
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert seen.body["system"] == "Be brief."
    assert seen.body["max_tokens"] == 2048
    assert seen.body["temperature"] == 1.0
    assert seen.body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {
                    "type": "tool_use",
                    "id": "toolu_0",
                    "name": "get_weather",
                    "input": {"city": "Oslo"},
                }
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_0",
                    "content": [{"type": "text", "text": "snow"}],
                },
                {"type": "text", "text": "And Rome?"},
            ],
        },
    ]


async def test_one_connection_serves_one_answer_after_another(house: House) -> None:
    house.provider.says(openai_stream("a"))
    for _ in range(3):
        await house.client.chat.completions.create(model="gpt-4o", messages=HELLO, **TRANSLATED)
    house.provider.says(said("b"))
    await house.client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert len({seen.peer_port for seen in house.provider.seen}) == 1


async def test_anthropics_usage_counts_cached_tokens_as_prompt(house: House) -> None:
    house.provider.says(anthropic_stream(anthropic_text("hi")))
    answer = await house.client.chat.completions.create(model="claude-haiku-4-5", messages=HELLO)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (42, 15)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 12


REFUSALS: list[tuple[str, Reply, int, str]] = [
    ("gpt-1", whole({"error": {"message": "no sk-openai"}}, 401), 502, "provider_refused_key"),
    ("gpt-2", whole({"error": {"message": "secret"}}, 400), 400, "provider_refused_request"),
    ("gpt-3", whole({"error": {"message": "secret"}}, 404), 404, "provider_lacks_model"),
    (
        "gpt-4",
        whole({"error": {"message": "secret"}}, 429, Retry_After="60"),
        429,
        "provider_rate_limited",
    ),
    (
        "claude-1",
        whole({"type": "error", "error": {"type": "overloaded_error"}}, 529, Retry_After="60"),
        503,
        "provider_overloaded",
    ),
    ("gpt-5", Reply([b"data: {nonsense\n\n"]), 502, "provider_answer_broken"),
    ("gpt-6", Reply([b"<html>"], content_type="text/html"), 502, "provider_answer_broken"),
    ("gpt-7", Reply([DONE]), 502, "provider_answer_broken"),
    (
        "claude-2",
        Reply([anthropic_event("error", error={"type": "overloaded_error", "message": "x"})]),
        503,
        "provider_overloaded",
    ),
    ("gpt-8", whole({}, 302, Location="http://127.0.0.1:1/"), 502, "provider_answer_broken"),
]


async def test_what_providers_refuse(start_house: Any) -> None:
    async with start_house(expose_upstream_errors="never") as house:
        await check_refusals(house)


async def check_refusals(house: House) -> None:
    for model, reply, status, code in REFUSALS:
        house.provider.says(reply)
        with pytest.raises(openai.APIStatusError) as caught:
            await house.client.chat.completions.create(model=model, messages=HELLO, **TRANSLATED)
        assert (caught.value.status_code, caught.value.code) == (status, code), model
        assert "sk-openai" not in str(caught.value), model
        assert "secret" not in str(caught.value), model
        if status == 429:
            assert caught.value.response.headers["retry-after"] == "60"


async def test_what_a_provider_says_is_for_admins(house: House) -> None:
    house.provider.says(whole({"error": {"message": "unknown parameter: foo"}}, 400))
    with pytest.raises(openai.BadRequestError, match="unknown parameter: foo"):
        await house.client.chat.completions.create(
            model="gpt-4o", messages=HELLO, extra_body={"foo": 1}
        )
    assert house.provider.seen[0].body["foo"] == 1
    created: Any = await house.client.post(
        f"{house.fleet.url}/api/admin/keys", body={"name": "bob"}, cast_to=object
    )
    async with house.client.with_options(api_key=created["key"]) as bob:
        with pytest.raises(openai.BadRequestError, match="refuses this request") as caught:
            await bob.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert "foo" not in str(caught.value)


async def test_a_passing_fault_is_tried_again(house: House) -> None:
    house.provider.says(
        whole({"error": {"message": "oops"}}, 500),
        Reply([b": nothing\n\n"], cuts=True),
        openai_stream("at last"),
    )
    answer = await house.client.chat.completions.create(
        model="gpt-4o", messages=HELLO, **TRANSLATED
    )
    assert answer.choices[0].message.content == "at last"
    assert len(house.provider.seen) == 3


async def test_nothing_is_tried_again_once_an_answer_has_begun(house: House) -> None:
    house.provider.says(Reply([chunk({"content": "half"})], cuts=True))
    stream = await house.client.chat.completions.create(
        model="gpt-4o", messages=HELLO, stream=True, **TRANSLATED
    )
    texts = await read_until_broken(stream, "broke off")
    assert "".join(texts) == "half"
    assert len(house.provider.seen) == 1


async def test_an_error_in_the_midst_ends_the_stream(house: House) -> None:
    error = {"error": {"message": "engine gone", "type": "server_error", "code": None}}
    house.provider.says(Reply([chunk({"content": "half"}), chunk(**error)]))
    stream = await house.client.chat.completions.create(
        model="gpt-4o", messages=HELLO, stream=True, **TRANSLATED
    )
    assert "".join(await read_until_broken(stream, "failed at its own end")) == "half"


async def test_a_missing_done_is_forgiven(house: House) -> None:
    house.provider.says(Reply([chunk({"content": "all"}), chunk({}, "length")]))
    answer = await house.client.chat.completions.create(
        model="gpt-4o", messages=HELLO, **TRANSLATED
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    # Nobody counted: four characters are a token.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 1)


async def test_leaving_hangs_up_on_the_provider(house: House) -> None:
    house.provider.says(Reply([chunk({"content": "and so on"})], holds=True))
    stream = await house.client.chat.completions.create(
        model="gpt-4o", messages=HELLO, stream=True, **TRANSLATED
    )
    await house.provider.is_holding.wait()
    await stream.close()
    await house.provider.is_hung_up.wait()


async def test_a_hung_provider_is_given_up(start_house: Any) -> None:
    async with start_house(idle_timeout_s=0.05) as house:
        house.provider.says(Reply(holds=True))
        with pytest.raises(openai.APIStatusError, match=r"sent nothing for 0\.05 s") as caught:
            await house.client.chat.completions.create(model="gpt-4o", messages=HELLO, **TRANSLATED)
        assert caught.value.status_code == 504
        assert len(house.provider.seen) == 1
        await house.provider.is_hung_up.wait()


async def test_an_oversized_answer_is_cut(start_house: Any) -> None:
    long = {"choices": [{"message": {"content": "x" * 2000}, "finish_reason": "stop"}]}
    replies = [openai_stream(*["x" * 500] * 3), Reply([b"data: " + b"x" * 2000]), whole(long)]
    async with start_house(max_upstream_response_bytes=1024) as house:
        for number, reply in enumerate(replies):
            house.provider.says(reply)
            with pytest.raises(openai.APIStatusError, match="larger than 1024 bytes"):
                await house.client.chat.completions.create(
                    model=f"gpt-{number}", messages=HELLO, **TRANSLATED
                )


async def test_after_three_failures_a_provider_is_left_alone(house: House) -> None:
    house.provider.says(whole({"error": "x"}, 500, Retry_After="600"))
    for _ in range(3):
        with pytest.raises(openai.APIStatusError):
            await house.client.chat.completions.create(model="gpt-4o", messages=HELLO, **TRANSLATED)
    count = len(house.provider.seen)
    with pytest.raises(openai.InternalServerError, match="failed repeatedly") as caught:
        await house.client.chat.completions.create(model="gpt-4o", messages=HELLO, **TRANSLATED)
    assert caught.value.status_code == 503
    assert len(house.provider.seen) == count
    # Another model of the same provider may be well.
    house.provider.says(openai_stream("fine"))
    await house.client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, **TRANSLATED)


async def test_models_and_fallback_of_the_operator(
    start_house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "mine")
    async with fake_provider() as other, fake_provider() as last:
        named = {"mine/big": {"base_url": other.url, "auth_env": "MY_KEY", "ctx_size": 4096}}
        async with start_house(cloud_models=named, cloud_fallback_url=last.url) as house:
            other.says(said("mine"))
            last.says(said("?"))
            first = await house.client.chat.completions.create(
                model="mine/big", messages=HELLO, **TRANSLATED, extra_body={"top_k": 4}
            )
            second = await house.client.chat.completions.create(
                model="whoever", messages=HELLO, **TRANSLATED
            )
    assert first.choices[0].message.content == "mine"
    assert other.seen[0].headers["Authorization"] == "Bearer mine"
    assert other.seen[0].body["top_k"] == 4
    assert second.choices[0].message.content == "?"
    assert "Authorization" not in last.seen[0].headers
