"""Requests that reach a provider in the client's own dialect, byte for byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from shoal_gateway.providers.relay import RelayedStream
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
from shoal_gateway.task import Usage

KEY = "k" * 64
HELLO: Any = [{"role": "user", "content": "hi"}]


@dataclass
class House:
    """A gateway with one provider behind it."""

    http: aiohttp.ClientSession
    openai: AsyncOpenAI
    anthropic: AsyncAnthropic
    provider: FakeProvider

    async def raw_stream(self, path: str, **body: Any) -> bytes:
        async with self.http.post(path, json={"messages": HELLO, "stream": True} | body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.read()


@pytest.fixture
def start_house(start_fleet: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant")

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[House]:
        async with AsyncExitStack() as stack:
            provider = await stack.enter_async_context(fake_provider())
            urls = dict.fromkeys(("openai", "anthropic"), provider.url)
            fleet = await stack.enter_async_context(
                start_fleet(provider_base_urls=urls, **settings)
            )
            headers = {"x-api-key": KEY}
            yield House(
                await stack.enter_async_context(aiohttp.ClientSession(fleet.url, headers=headers)),
                await stack.enter_async_context(
                    AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0)
                ),
                await stack.enter_async_context(
                    AsyncAnthropic(base_url=fleet.url, api_key=KEY, max_retries=0)
                ),
                provider,
            )

    return start


@pytest.fixture
async def house(start_house: Any) -> AsyncIterator[House]:
    async with start_house() as house:
        yield house


async def test_a_stream_is_passed_on_as_it_is(house: House) -> None:
    reply = openai_stream("one ", "two")
    house.provider.says(reply)
    asked: dict[str, Any] = {"stream_options": {"include_usage": True}, "user": "me", "new": [1]}
    data = await house.raw_stream("/v1/chat/completions", model="gpt-4o", **asked)
    assert data == b"".join(reply.chunks)
    (seen,) = house.provider.seen
    assert seen.body == {"model": "gpt-4o", "messages": HELLO, "stream": True} | asked
    assert seen.headers["Authorization"] == "Bearer sk-openai"
    assert KEY not in str(seen)


async def test_usage_that_nobody_asked_for_is_counted_and_left_out(house: House) -> None:
    house.provider.says(openai_stream("one"))
    data = await house.raw_stream("/v1/chat/completions", model="gpt-4o")
    assert house.provider.seen[0].body["stream_options"] == {"include_usage": True}
    assert b'"prompt_tokens"' not in data
    assert data.endswith(DONE)
    async with house.http.get("/metrics") as answer:
        text = await answer.text()
    assert 'shoal_gateway_tokens_total{kind="prompt"} 19.0' in text
    assert 'shoal_gateway_tokens_total{kind="completion"} 10.0' in text


async def test_a_whole_answer_keeps_fields_we_do_not_know(house: House) -> None:
    message = {"role": "assistant", "content": "hi", "annotations": [{"type": "url_citation"}]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-4o-2024"}
    house.provider.says(whole(body | {"choices": [choice], "usage": USAGE}))
    answer = await house.openai.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert answer.model == "gpt-4o-2024"
    assert answer.choices[0].message.annotations is not None
    assert "stream_options" not in house.provider.seen[0].body


async def test_errors_are_ours_before_and_within_a_stream(house: House) -> None:
    house.provider.says(whole({"error": {"message": "no"}}, 429, Retry_After="30"))
    with pytest.raises(openai.RateLimitError) as caught:
        await house.openai.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    assert caught.value.code == "provider_rate_limited"
    assert caught.value.response.headers["retry-after"] == "30"
    error = b'data: {"error": {"message": "engine gone", "type": "server_error"}}\n\n'
    house.provider.says(Reply([chunk({"content": "half"}), error]))
    data = await house.raw_stream("/v1/chat/completions", model="gpt-4o")
    last = json.loads(data.strip().rpartition(b"data: ")[2])
    assert last["error"]["code"] == "provider_fault"
    house.provider.says(Reply([chunk({"content": "half"})], cuts=True))
    data = await house.raw_stream("/v1/chat/completions", model="gpt-4o")
    assert b'"content": "half"' in data
    assert b'"provider_answer_broken"' in data
    house.provider.says(Reply([b"<html>"], content_type="text/html"))
    with pytest.raises(openai.InternalServerError, match="not of the form"):
        await house.openai.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)


async def test_a_fault_before_the_first_byte_is_tried_again(house: House) -> None:
    house.provider.says(whole({}, 500), openai_stream("fine"))
    data = await house.raw_stream("/v1/chat/completions", model="gpt-4o")
    assert b"fine" in data
    assert len(house.provider.seen) == 2


async def test_leaving_hangs_up_on_the_provider(house: House) -> None:
    house.provider.says(Reply([chunk({"content": "and so on"})], holds=True))
    stream = await house.openai.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    await house.provider.is_holding.wait()
    await stream.close()
    await house.provider.is_hung_up.wait()


@pytest.mark.parametrize("event", [b"", chunk({"content": "and so on"})])
async def test_a_provider_s_silence_is_filled_between_events(
    start_house: Any, event: bytes
) -> None:
    keep_alive = b": keep-alive\n\n"
    async with start_house(keep_alive_s=0.05) as house:
        half = chunk({"content": "never whole"})[:20]
        house.provider.says(Reply([event, half] if event else [half], holds=True))
        body = {"model": "gpt-4o", "messages": HELLO, "stream": True}
        async with house.http.post("/v1/chat/completions", json=body) as answer:
            data = b""
            while data.count(keep_alive) < 2:
                data += await answer.content.readany()
    assert data.replace(keep_alive, b"") == event


async def test_what_a_hosted_provider_refuses_is_translated_away(house: House) -> None:
    house.provider.says(openai_stream("fine"))
    answer = await house.openai.chat.completions.create(
        model="gpt-4o", messages=HELLO, extra_body={"top_k": 5, "session_id": "s"}
    )
    assert answer.choices[0].message.content == "fine"
    assert not {"top_k", "session_id"} & house.provider.seen[0].body.keys()


async def test_translated_choices_have_seeds_of_their_own(house: House) -> None:
    house.provider.says(openai_stream("fine"))
    answer = await house.openai.chat.completions.create(
        model="gpt-4o", messages=HELLO, n=3, seed=5, extra_body={"top_k": 5}
    )
    assert [choice.message.content for choice in answer.choices] == ["fine"] * 3
    assert sorted(seen.body["seed"] for seen in house.provider.seen) == [5, 6, 7]


async def test_anthropics_client_meets_anthropic_itself(house: House) -> None:
    reply = anthropic_stream(anthropic_text("Hel", "lo"))
    house.provider.says(reply)
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    async with house.anthropic.messages.stream(
        model="claude-haiku-4-5",
        max_tokens=9,
        system=system,
        messages=HELLO,
        extra_headers={"anthropic-beta": "some-beta"},
    ) as stream:
        final = await stream.get_final_message()
    assert final.content[0].type == "text"
    assert final.content[0].text == "Hello"
    assert final.id == "msg_01XFDUDYJgAACzvnptvVoYEL"
    (seen,) = house.provider.seen
    assert seen.body["system"] == system
    assert seen.headers["x-api-key"] == "sk-ant"
    assert seen.headers["anthropic-beta"] == "some-beta"
    async with house.http.get("/metrics") as answer:
        assert 'shoal_gateway_tokens_total{kind="prompt"} 42.0' in await answer.text()
    overloaded = {"type": "overloaded_error", "message": "busy"}
    house.provider.says(
        Reply([*list(reply.chunks)[:4], anthropic_event("error", error=overloaded)])
    )
    data = await house.raw_stream("/v1/messages", model="claude-haiku-4-5", max_tokens=9)
    assert data.rpartition(b"event: ")[2].startswith(b"error\n")


async def test_what_anthropic_alone_understands_survives_a_translation(start_house: Any) -> None:
    cached: Any = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    brief: Any = {"cache_control": {"type": "ephemeral", "ttl": "5m"}}
    system = [{"type": "text", "text": "Be brief."} | cached, {"type": "text", "text": "Be kind."}]
    tool = {"name": "f", "input_schema": {"type": "object"}} | brief
    text = {"type": "text", "text": "hi"}
    thoughts = [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2VhbGVk"},
        {"type": "thinking", "thinking": "so", "signature": "c2lnMg=="},
    ]
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}} | brief
    result: Any = {"type": "tool_result", "tool_use_id": "toolu_1"}
    result |= {"content": [{"type": "text", "text": "no"}], "is_error": True} | cached
    messages = [
        {"role": "user", "content": [text | cached, text]},
        {"role": "assistant", "content": [*thoughts, text, call]},
        {"role": "user", "content": [result, text | brief]},
    ]
    body = {"model": "claude-haiku-4-5", "max_tokens": 9, "system": system, "tools": [tool]}
    sealed = {"type": "redacted_thinking", "data": "bW9yZQ=="}
    async with start_house(unknown_field_policy="strip") as house:
        for is_stream in (False, True):
            house.provider.says(anthropic_stream((sealed, []), anthropic_text("oh")))
            # A field that nobody knows is left out, which takes a translation.
            fields: Any = {"messages": messages, "extra_body": {"unknown": 1}}
            if is_stream:
                async with house.anthropic.messages.stream(**body, **fields) as stream:
                    answer = await stream.get_final_message()
            else:
                answer = await house.anthropic.messages.create(**body, **fields)
            assert [block.to_dict() for block in answer.content] == [
                sealed,
                {"type": "text", "text": "oh"},
            ]
            seen = house.provider.seen[-1].body
            assert "unknown" not in seen
            assert seen["system"] == system
            assert seen["tools"] == [tool]
            assert seen["messages"] == messages


async def test_parts_that_only_openai_knows_reach_it(house: House) -> None:
    house.provider.says(openai_stream("heard"))
    parts = [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]
    messages = [{"role": "user", "content": parts}]
    await house.raw_stream("/v1/chat/completions", model="gpt-4o", messages=messages)
    assert house.provider.seen[0].body["messages"] == messages
    wrong = {"model": "gpt-4o", "messages": HELLO, "stream": True, "stream_options": 5}
    async with house.http.post("/v1/chat/completions", json=wrong) as answer:
        assert answer.status == 400


async def test_tools_and_blocks_that_only_anthropic_has_reach_it(house: House) -> None:
    house.provider.says(anthropic_stream(anthropic_text("read")))
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    fields = {
        "max_tokens": 9,
        "tools": [{"type": "web_search_20250305", "name": "web_search"}],
        "messages": [{"role": "user", "content": [{"type": "document", "source": source}]}],
    }
    await house.raw_stream("/v1/messages", model="claude-haiku-4-5", **fields)
    (seen,) = house.provider.seen
    assert seen.body.items() >= fields.items()
    async with house.http.post("/v1/messages", json={"model": "heavyweight"} | fields) as answer:
        assert answer.status == 400


async def test_responses_go_to_openai_as_they_are(house: House) -> None:
    usage = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    body = {"id": "resp_1", "object": "response", "model": "gpt-5", "output": [], "usage": usage}
    house.provider.says(whole(body))
    answer = await house.openai.responses.create(
        model="gpt-5", input="hi", tools=[{"type": "web_search"}]
    )
    assert answer.id == "resp_1"
    (seen,) = house.provider.seen
    assert seen.path == "/v1/responses"
    assert seen.body == {"model": "gpt-5", "input": "hi", "tools": [{"type": "web_search"}]}


def test_a_relayed_stream_may_arrive_in_any_pieces() -> None:
    events = list(openai_stream("a", "b").chunks)
    data = b"".join(events)
    for size_bytes in (1, 7, 100, len(data)):
        for newline in (b"\n", b"\r\n"):
            sent = data.replace(b"\n", newline)
            relayed = RelayedStream(drops_usage=True)
            out = b""
            for start in range(0, len(sent), size_bytes):
                out += relayed.feed(sent[start : start + size_bytes])
            out += relayed.flush()
            assert out == b"".join(events[:-2] + events[-1:]).replace(b"\n", newline)
            assert relayed.usage() == Usage(19, 10, cached_tokens=8, reasoning_tokens=4)
