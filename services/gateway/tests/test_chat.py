"""The chat route as OpenAI's own client sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from shoal_common.errors import Overloaded, PlanUnavailable
from shoal_gateway.reply import Reply

HELLO: Any = [{"role": "user", "content": "hi"}]
KEY = "k" * 64


@pytest.fixture
async def client(fleet: Any) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


async def stream_events(url: str, **body: Any) -> list[str]:
    """The raw lines of a stream."""
    lines = []
    async with (
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.post(
            f"{url}/v1/chat/completions", json={"messages": HELLO, "stream": True} | body
        ) as response,
    ):
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        async for line in response.content:
            if line.strip():
                lines.append(line.decode().strip())
    return lines


def error_of(lines: list[str]) -> dict[str, Any]:
    assert lines[-1].startswith("data: "), lines
    error: dict[str, Any] = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def test_a_whole_answer(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("one two three")
    answer = await client.chat.completions.create(model="heavyweight", messages=HELLO)
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "heavyweight"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(fleet.stage.reply_ids) + 1
    prompt = fleet.tokens.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    request = fleet.stage.requests[0]
    assert list(request.token_ids.ids) == prompt
    assert answer.usage.prompt_tokens == len(prompt)
    assert list(request.stop_token_ids) == [0, 2]
    assert request.attempt == 1
    assert fleet.router.opened[0].prompt_token_count == len(prompt)
    await fleet.router.is_closed.wait()


async def test_a_stream_has_role_first_one_reason_and_usage_last(
    fleet: Any, client: AsyncOpenAI
) -> None:
    fleet.says("fish 🦈 swim — 魚")
    stream = await client.chat.completions.create(
        model="auto", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == "fish 🦈 swim — 魚"
    reasons = [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason]
    assert reasons == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(fleet.stage.reply_ids) + 1
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_ends_with_done_and_without_usage_unless_asked(fleet: Any) -> None:
    lines = await stream_events(fleet.url)
    assert lines[-1] == "data: [DONE]"
    assert not any("usage" in line for line in lines)


async def test_the_token_limit_gives_length(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("one two three four five")
    answer = await client.chat.completions.create(model="auto", messages=HELLO, max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


async def test_a_stop_string_over_tokens_cuts_the_answer_and_cancels(
    fleet: Any, client: AsyncOpenAI
) -> None:
    fleet.says("keep this ## END and not that")
    fleet.stage.hold = len(fleet.stage.reply_ids)
    answer = await client.chat.completions.create(
        model="auto", messages=HELLO, stop=["## END", "never"]
    )
    assert answer.choices[0].message.content == "keep this "
    assert answer.choices[0].finish_reason == "stop"
    await fleet.router.is_closed.wait()


async def test_text_that_only_begins_like_a_stop_string_is_sent(
    fleet: Any, client: AsyncOpenAI
) -> None:
    fleet.says("a ## b ##")
    answer = await client.chat.completions.create(model="auto", messages=HELLO, stop="## END")
    assert answer.choices[0].message.content == "a ## b ##"


async def test_logprobs_carry_bytes_and_candidates(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("ok 🦈")
    answer = await client.chat.completions.create(
        model="auto", messages=HELLO, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert b"".join(bytes(entry.bytes or []) for entry in logprobs.content) == "ok 🦈".encode()
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs.content)
    assert logprobs.content[0].logprob == pytest.approx(-0.5)


async def test_sampling_takes_the_request_then_the_checkpoint(
    fleet: Any, client: AsyncOpenAI
) -> None:
    await client.chat.completions.create(model="auto", messages=HELLO)
    await client.chat.completions.create(model="auto", messages=HELLO, temperature=0.5, seed=7)
    first, second = (request.sampling for request in fleet.stage.requests)
    assert (first.temperature, first.top_p) == (0.0, 1.0), "do_sample is false in the checkpoint"
    assert (second.temperature, second.seed) == (0.5, 7)
    # 512 positions less the prompt, because 2048 do not fit.
    prompt = len(fleet.stage.requests[0].token_ids.ids)
    assert fleet.stage.requests[0].max_tokens == 512 - prompt
    assert fleet.store.manifest_reads == 1


async def test_messages_tools_and_parts_reach_the_template(fleet: Any, client: AsyncOpenAI) -> None:
    messages: Any = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c"},
    ]
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    await client.chat.completions.create(model="auto", messages=messages, tools=tools)
    ids = list(fleet.stage.requests[0].token_ids.ids)
    assert fleet.tokens.tokenizer.decode(ids, skip_special_tokens=False) == (
        "<|im_start|>system\nbe brief\nTools: f()<|im_end|>\n<|im_start|>user\nab<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_a_disconnect_frees_stage_and_plan(fleet: Any) -> None:
    fleet.stage.hold = 1
    reader = asyncio.create_task(stream_events(fleet.url))
    await fleet.stage.is_holding.wait()
    reader.cancel()
    await fleet.stage.is_cancelled.wait()
    await fleet.router.is_closed.wait()


async def test_a_disconnect_without_a_stream_frees_stage_and_plan(
    fleet: Any, client: AsyncOpenAI
) -> None:
    fleet.stage.hold = 1
    waiting = asyncio.create_task(client.chat.completions.create(model="auto", messages=HELLO))
    await fleet.stage.is_holding.wait()
    waiting.cancel()
    await fleet.stage.is_cancelled.wait()
    await fleet.router.is_closed.wait()


async def test_a_lost_stage_without_another_plan_ends_in_an_error_event(fleet: Any) -> None:
    fleet.stage.fail_at = [1]
    lines = await stream_events(fleet.url)
    assert error_of(lines)["type"] == "server_error"
    assert fleet.router.lost[0].attempt == 1
    assert fleet.router.lost[0].node_id == "node-a"
    await fleet.router.is_closed.wait()


async def test_a_loss_is_reported_even_when_no_attempt_is_left(start_fleet: Any) -> None:
    async with start_fleet(attempts_max=2) as fleet:
        fleet.router.plan_count = 3
        fleet.stage.fail_at = [1, 1]
        assert error_of(await stream_events(fleet.url))["type"] == "server_error"
        assert [lost.attempt for lost in fleet.router.lost] == [1, 2]
        assert len(fleet.stage.requests) == 2


async def test_after_a_loss_the_router_is_asked_anew(fleet: Any) -> None:
    fleet.stage.fail_at = [1]
    await stream_events(fleet.url)
    asked = fleet.router.list_count
    await stream_events(fleet.url)
    assert fleet.router.list_count == asked + 1


async def test_a_head_that_dies_ends_in_an_error_event(fleet: Any) -> None:
    fleet.stage.hold = 1
    reader = asyncio.create_task(stream_events(fleet.url))
    await fleet.stage.is_holding.wait()
    await fleet.stage_server.stop()
    assert error_of(await reader)["message"]


async def test_a_head_that_ends_without_finishing_is_an_error(fleet: Any) -> None:
    fleet.stage.ends_at = 1
    assert error_of(await stream_events(fleet.url))["code"] == "stage_failed"


async def test_a_gap_in_the_positions_is_an_error(fleet: Any) -> None:
    fleet.stage.skips = 1
    assert error_of(await stream_events(fleet.url))["code"] == "stage_failed"


async def test_a_fault_inside_a_stream_is_an_event_too(
    fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(self: Reply, delta: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Reply, "feed", fault)
    error = error_of(await stream_events(fleet.url))
    assert error["code"] == "internal"
    await fleet.router.is_closed.wait()


async def test_a_silent_head_is_given_up(start_fleet: Any) -> None:
    async with start_fleet(idle_timeout_s=0.1) as fleet:
        fleet.stage.hold = 1
        assert error_of(await stream_events(fleet.url))["code"] == "stage_silent"
        await fleet.stage.is_cancelled.wait()


async def test_a_replay_goes_on_behind_what_was_delivered(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("one two three four")
    fleet.stage.fail_at = [2]
    fleet.router.plan_count = 2
    answer = await client.chat.completions.create(model="auto", messages=HELLO)
    assert answer.choices[0].message.content == "one two three four"
    replay = fleet.stage.requests[1]
    assert replay.attempt == 2
    assert list(replay.generated.ids) == fleet.stage.reply_ids[:2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(fleet.stage.reply_ids) + 1


async def test_comments_keep_a_queued_stream_open(start_fleet: Any) -> None:
    async with start_fleet(keep_alive_s=0.02) as fleet:
        fleet.router.queue = asyncio.Event()
        body = {"messages": HELLO, "stream": True}
        async with (
            aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
            session.post(f"{fleet.url}/v1/chat/completions", json=body) as response,
        ):
            assert await response.content.readline() == b": keep-alive\n"
            fleet.router.queue.set()
            lines = (await response.read()).decode().split("\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert lines[-3:] == ["data: [DONE]", "", ""]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_plan_error_keeps_its_status(
    fleet: Any, client: AsyncOpenAI, is_stream: bool
) -> None:
    fleet.router.error = PlanUnavailable("nobody holds layers 2 to 4 of PlanUnavailable")
    with pytest.raises(openai.InternalServerError, match="nobody holds layers 2 to 4") as caught:
        await client.chat.completions.create(model="auto", messages=HELLO, stream=is_stream)
    assert caught.value.status_code == 503


async def test_an_overloaded_fleet_is_429(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.router.error = Overloaded("32 requests wait; Overloaded")
    with pytest.raises(openai.RateLimitError):
        await client.chat.completions.create(model="auto", messages=HELLO)


async def test_eight_chats_at_once_and_some_leave(fleet: Any, client: AsyncOpenAI) -> None:
    fleet.says("one two three")

    async def chat() -> str | None:
        answer = await client.chat.completions.create(model="auto", messages=HELLO)
        return answer.choices[0].message.content

    tasks = [asyncio.create_task(chat()) for _ in range(8)]
    for task in tasks[::4]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers.count("one two three") == 6
