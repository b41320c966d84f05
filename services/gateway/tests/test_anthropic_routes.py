"""The messages routes as Anthropic's own client sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import pytest
from anthropic import AsyncAnthropic

from shoal_common.errors import Overloaded, PlanUnavailable

HELLO: Any = [{"role": "user", "content": "hi"}]
KEY = "k" * 64
WEATHER: Any = {
    "name": "weather",
    "description": "of a place",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}


@pytest.fixture
async def client(fleet: Any) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(base_url=fleet.url, api_key=KEY, max_retries=0) as client:
        yield client


async def raw_events(url: str, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of a stream's events."""
    asked = {"model": "auto", "messages": HELLO, "max_tokens": 64, "stream": True} | body
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(f"{url}/v1/messages?beta=true", json=asked) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        assert response.headers["request-id"].startswith("req-")
        text = (await response.read()).decode()
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, _, data = block.partition("\n")
        assert data.startswith("data: "), block
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in events)
    return events


def prompt_of(fleet: Any) -> str:
    ids = list(fleet.stage.requests[-1].token_ids.ids)
    text: str = fleet.tokens.tokenizer.decode(ids, skip_special_tokens=False)
    return text


async def test_a_whole_answer(fleet: Any, client: AsyncAnthropic) -> None:
    fleet.says("one two three")
    answer = await client.messages.create(model="heavyweight", messages=HELLO, max_tokens=64)
    assert answer.type == "message"
    assert answer.role == "assistant"
    assert answer.model == "heavyweight"
    assert answer.id.startswith("msg_")
    assert [block.model_dump(exclude_none=True) for block in answer.content] == [
        {"type": "text", "text": "one two three"}
    ]
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    prompt_count = len(fleet.stage.requests[0].token_ids.ids)
    assert answer.usage.cache_read_input_tokens == 3
    assert answer.usage.input_tokens == prompt_count - 3
    assert answer.usage.output_tokens == len(fleet.stage.reply_ids) + 1
    assert fleet.stage.requests[0].max_tokens == 64
    assert answer._request_id is not None
    assert answer._request_id.startswith("req-")


async def test_a_stream_accumulates_to_the_whole_answer(fleet: Any, client: AsyncAnthropic) -> None:
    fleet.says("fish 🦈 swim — 魚")
    async with client.messages.stream(model="auto", messages=HELLO, max_tokens=64) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()
    whole = await client.messages.create(model="auto", messages=HELLO, max_tokens=64)
    assert text == "fish 🦈 swim — 魚"
    left, right = message.model_dump(), whole.model_dump()
    for answer in (left, right):
        del answer["id"]
        for block in answer["content"]:
            block.pop("parsed_output", None)
    assert left == right


async def test_the_order_of_a_stream(fleet: Any) -> None:
    fleet.says("one two")
    events = await raw_events(fleet.url)
    names = [name for name, _ in events]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    start, end = events[0][1]["message"], events[-2][1]
    prompt_count = len(fleet.stage.requests[0].token_ids.ids)
    assert start["usage"]["input_tokens"] == prompt_count - 3
    assert start["usage"]["cache_read_input_tokens"] == 3
    assert start["content"] == []
    assert start["stop_reason"] is None
    assert end["usage"]["input_tokens"] == prompt_count - 3
    assert end["usage"]["output_tokens"] == len(fleet.stage.reply_ids) + 1


async def test_a_replay_after_a_lost_stage_changes_nothing(fleet: Any) -> None:
    fleet.says("one two three four")
    fleet.stage.fail_at = [2]
    fleet.router.plan_count = 2
    events = await raw_events(fleet.url)
    names = [name for name, _ in events]
    assert len(fleet.stage.requests) == 2
    assert names.count("message_start") == 1
    assert names.count("content_block_start") == 1
    deltas = [data["delta"]["text"] for name, data in events if name == "content_block_delta"]
    assert "".join(deltas) == "one two three four"


async def test_the_token_limit_and_the_stop_sequence_are_named(
    fleet: Any, client: AsyncAnthropic
) -> None:
    fleet.says("one two three four five")
    cut = await client.messages.create(model="auto", messages=HELLO, max_tokens=2)
    assert cut.stop_reason == "max_tokens"
    assert cut.usage.output_tokens == 2
    fleet.says("keep this ## END and not that")
    stopped = await client.messages.create(
        model="auto", messages=HELLO, max_tokens=64, stop_sequences=["never", "## END"]
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "## END")
    assert [getattr(block, "text", "") for block in stopped.content] == ["keep this "]


async def test_tools_results_and_system_reach_the_template(
    fleet: Any, client: AsyncAnthropic
) -> None:
    messages: Any = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"place": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "snow"},
                {"type": "text", "text": "and?"},
            ],
        },
    ]
    system: Any = [{"type": "text", "text": "brief", "cache_control": {"type": "ephemeral"}}]
    await client.messages.create(
        model="auto", messages=messages, max_tokens=64, system=system, tools=[WEATHER]
    )
    prompt = prompt_of(fleet)
    assert prompt.startswith("<|im_start|>system\nbrief\nTools: weather(place)<|im_end|>\n")
    assert '"place"' in prompt
    assert prompt.endswith(
        "<|im_start|>tool\nsnow<|im_end|>\n<|im_start|>user\nand?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


async def test_an_answer_goes_on_from_what_was_put_in_its_mouth(
    fleet: Any, client: AsyncAnthropic
) -> None:
    begun: Any = [*HELLO, {"role": "assistant", "content": "The answer is ("}]
    await client.messages.create(model="auto", messages=begun, max_tokens=8)
    assert prompt_of(fleet).endswith("hi<|im_end|>\n<|im_start|>assistant\nThe answer is (")


async def test_more_tokens_than_the_context_has_end_with_it(
    fleet: Any, client: AsyncAnthropic
) -> None:
    fleet.says("one two " * 400)
    answer = await client.messages.create(model="auto", messages=HELLO, max_tokens=20000)
    prompt_count = len(fleet.stage.requests[0].token_ids.ids)
    assert fleet.stage.requests[0].max_tokens == 512 - prompt_count
    assert answer.stop_reason == "model_context_window_exceeded"
    long: Any = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(anthropic.BadRequestError, match="limit is 512"):
        await client.messages.create(model="auto", messages=long, max_tokens=8)


async def test_a_models_calls_are_the_clients_tool_use(fleet: Any, client: AsyncAnthropic) -> None:
    written = '{"name": "weather", "arguments": {"place": "Oslo"}}'
    fleet.says(f"I look.\n<tool_call>\n{written}\n</tool_call>")
    asked: Any = {"model": "auto", "messages": HELLO, "max_tokens": 200, "tools": [WEATHER]}
    whole = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        assert message.stop_reason == "tool_use"
        text, call = message.content
        assert text.type == "text"
        assert text.text.strip() == "I look."
        assert call.type == "tool_use"
        assert (call.name, call.input) == ("weather", {"place": "Oslo"})


async def test_a_call_that_was_cut_off_is_never_half_run(
    fleet: Any, client: AsyncAnthropic
) -> None:
    fleet.says('<tool_call>\n{"name": "weather", "arguments": {"place": "Os')
    asked: Any = {"model": "auto", "messages": HELLO, "max_tokens": 200, "tools": [WEATHER]}
    async with client.messages.stream(**asked) as stream:
        message = await stream.get_final_message()
    assert [block.type for block in message.content] == ["text"]
    assert '{"place": "Os' in getattr(message.content[0], "text", "")
    assert message.stop_reason == "end_turn"


async def test_a_request_as_coding_agents_send_it(fleet: Any) -> None:
    fleet.says("Done.")
    body = (Path(__file__).parent / "data" / "anthropic_agent.json").read_text()
    headers = {
        "authorization": f"Bearer {KEY}",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "interleaved-thinking-2025-05-14,context-management-2025-06-27",
        "content-type": "application/json",
    }
    async with aiohttp.ClientSession(headers=headers) as session:
        url = f"{fleet.url}/v1/messages?beta=true"
        async with session.post(url, data=body) as response:
            text = (await response.read()).decode()
            assert response.status == 200, text
        counted = json.loads(body)
        del counted["max_tokens"], counted["stream"], counted["temperature"]
        async with session.post(
            f"{fleet.url}/v1/messages/count_tokens?beta=true", json=counted
        ) as response:
            told = await response.json()
    assert text.startswith("event: message_start\n")
    assert text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert told == {"input_tokens": len(fleet.stage.requests[0].token_ids.ids)}


async def test_a_disconnect_without_a_stream_frees_stage_and_plan(
    fleet: Any, client: AsyncAnthropic
) -> None:
    fleet.stage.hold = 1
    asked: Any = {"model": "auto", "messages": HELLO, "max_tokens": 8}
    waiting = asyncio.create_task(client.messages.create(**asked))
    await fleet.stage.is_holding.wait()
    waiting.cancel()
    await fleet.stage.is_cancelled.wait()
    await fleet.router.is_closed.wait()


async def test_tokens_are_counted_without_an_answer(fleet: Any, client: AsyncAnthropic) -> None:
    asked: Any = {"model": "auto", "messages": HELLO, "system": "brief", "tools": [WEATHER]}
    counted = await client.messages.count_tokens(**asked)
    assert fleet.router.opened == []
    await client.messages.create(max_tokens=8, **asked)
    assert counted.input_tokens == len(fleet.stage.requests[0].token_ids.ids)


async def named_key(fleet: Any, **fields: Any) -> tuple[str, str]:
    """Secret and id of a new key."""
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(f"{fleet.url}/api/admin/keys", json={"name": "ci"} | fields) as response,
    ):
        made = await response.json()
    assert response.status == 201, made
    return made["key"], made["id"]


async def test_key_and_session_go_with_the_task(fleet: Any) -> None:
    secret, key_id = await named_key(fleet)
    headers = {"x-session-affinity": "reef-7"}
    async with AsyncAnthropic(
        base_url=fleet.url, api_key=secret, max_retries=0, default_headers=headers
    ) as client:
        await client.messages.create(model="auto", messages=HELLO, max_tokens=8)
    assert fleet.router.opened[0].session_id == "reef-7"
    assert fleet.stage.requests[0].tenant == key_id


async def test_what_a_key_may_not_do_is_the_clients_own_class(fleet: Any) -> None:
    reader, _ = await named_key(fleet, scopes=["models"])
    poor, _ = await named_key(fleet, monthly_token_budget=0)
    asked: Any = {"model": "auto", "messages": HELLO, "max_tokens": 8}
    async with AsyncAnthropic(base_url=fleet.url, api_key=reader, max_retries=0) as client:
        with pytest.raises(anthropic.PermissionDeniedError) as forbidden:
            await client.messages.create(**asked)
    assert forbidden.value.type == "permission_error"
    async with AsyncAnthropic(base_url=fleet.url, api_key=poor) as client:
        with pytest.raises(anthropic.RateLimitError) as spent:
            await client.messages.create(**asked)
    assert spent.value.type == "rate_limit_error"
    assert fleet.router.opened == []


async def test_a_bearer_token_is_a_key_too(fleet: Any) -> None:
    async with AsyncAnthropic(base_url=fleet.url, auth_token=KEY, max_retries=0) as client:
        answer = await client.beta.messages.create(
            model="auto", messages=HELLO, max_tokens=8, betas=["interleaved-thinking-2025-05-14"]
        )
    assert answer.stop_reason == "end_turn"


async def test_errors_are_the_clients_own_classes(fleet: Any, client: AsyncAnthropic) -> None:
    async with AsyncAnthropic(base_url=fleet.url, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await stranger.messages.create(model="auto", messages=HELLO, max_tokens=8)
    assert refused.value.type == "authentication_error"
    with pytest.raises(anthropic.BadRequestError, match="temperature") as wrong:
        await client.messages.create(
            model="auto", messages=HELLO, max_tokens=8, extra_body={"temperature": 1.5}
        )
    assert wrong.value.type == "invalid_request_error"
    body: Any = wrong.value.body
    assert body["type"] == "error"
    assert body["request_id"] == wrong.value.request_id
    with pytest.raises(anthropic.NotFoundError, match="heavyweight") as unknown:
        await client.messages.create(model="nobody", messages=HELLO, max_tokens=8)
    assert unknown.value.type == "not_found_error"


async def test_a_full_queue_is_529_and_a_missing_layer_503(
    fleet: Any, client: AsyncAnthropic
) -> None:
    fleet.router.error = Overloaded("32 requests wait")
    with pytest.raises(anthropic.APIStatusError) as full:
        await client.messages.create(model="auto", messages=HELLO, max_tokens=8)
    assert (full.value.status_code, full.value.type) == (529, "overloaded_error")
    fleet.router.error = PlanUnavailable("nobody holds layers 2 to 4")
    with pytest.raises(anthropic.InternalServerError) as missing:
        await client.messages.create(model="auto", messages=HELLO, max_tokens=8)
    assert (missing.value.status_code, missing.value.type) == (503, "api_error")


async def test_the_client_tries_a_full_queue_again(fleet: Any) -> None:
    fleet.router.error = Overloaded("32 requests wait")
    async with AsyncAnthropic(base_url=fleet.url, api_key=KEY, max_retries=1) as client:
        with pytest.raises(anthropic.APIStatusError):
            await client.messages.create(model="auto", messages=HELLO, max_tokens=8)
    assert len(fleet.router.opened) == 2


async def test_an_error_midway_is_the_last_event(fleet: Any, client: AsyncAnthropic) -> None:
    fleet.stage.fail_at = [1, 1]
    events = await raw_events(fleet.url)
    name, data = events[-1]
    assert name == "error"
    assert data["error"]["type"] == "api_error"
    assert data["request_id"].startswith("req-")
    assert "message_stop" not in [name for name, _ in events]
    with pytest.raises(anthropic.APIStatusError):
        async with client.messages.stream(model="auto", messages=HELLO, max_tokens=8) as stream:
            await stream.get_final_message()


async def test_a_disconnect_frees_stage_and_plan(fleet: Any, client: AsyncAnthropic) -> None:
    fleet.stage.hold = 1
    async with client.messages.stream(model="auto", messages=HELLO, max_tokens=8) as stream:
        assert await anext(stream.text_stream)
        await fleet.stage.is_holding.wait()
    await fleet.stage.is_cancelled.wait()
    await fleet.router.is_closed.wait()


async def test_silence_is_a_comment_before_the_message_and_a_ping_in_it(start_fleet: Any) -> None:
    async with start_fleet(keep_alive_s=0.02) as fleet:
        fleet.router.queue = asyncio.Event()
        fleet.stage.hold = 1
        body = {"model": "auto", "messages": HELLO, "max_tokens": 8, "stream": True}
        async with (
            aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
            session.post(f"{fleet.url}/v1/messages", json=body) as response,
        ):
            assert await response.content.readline() == b": keep-alive\n"
            fleet.router.queue.set()
            await fleet.stage.is_holding.wait()
            while await response.content.readline() != b"event: content_block_delta\n":
                continue
            assert (await response.content.readline()).startswith(b"data: ")
            assert await response.content.readline() == b"\n"
            assert await response.content.readline() == b"event: ping\n"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/batches", "/v1/messages/"])
async def test_every_refusal_has_the_envelope(fleet: Any, path: str) -> None:
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.get(fleet.url + path) as response,
    ):
        body = await response.json()
    assert response.status in (404, 405)
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
