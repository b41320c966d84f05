"""What is kept of responses, for whom, and what happens without Redis."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import aiohttp
import openai
import pytest
from redis import asyncio as redis_client

from shoal_common.testing.redis import RedisProcess
from shoal_gateway.task import (
    Finished,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

UNKNOWN_ID = f"resp_{'0' * 32}"


def turns(task: Any) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in task.messages]


async def test_a_chain_repeats_what_was_said(gateway: Any) -> None:
    async with gateway.client() as client:
        first = await client.responses.create(model="m", input="one", instructions="first")
        second = await client.responses.create(
            model="m", input="two", previous_response_id=first.id, instructions="second"
        )
        await client.responses.create(model="m", input="three", previous_response_id=second.id)
        counted = await client.responses.input_tokens.count(
            model="m", input="three", previous_response_id=second.id
        )
    said = [("user", "one"), ("assistant", "hello"), ("user", "two"), ("assistant", "hello")]
    assert turns(gateway.backend.tasks[1]) == [("system", "second"), *said[:2], ("user", "two")]
    assert turns(gateway.backend.tasks[2]) == [*said, ("user", "three")]
    assert counted.input_tokens == 5


async def test_a_chain_carries_calls_and_thoughts(gateway: Any) -> None:
    gateway.backend.script = [
        ReasoningDelta("hm", signature="sig"),
        ToolCallStarted(0, "call_a", "weather"),
        ToolCallDelta(0, "{}"),
        Finished("tool_calls", Usage(1, 1)),
    ]
    tool = {"type": "function", "name": "weather", "parameters": {}, "strict": False}
    async with gateway.client() as client:
        first = await client.responses.create(model="m", input="one", tools=[tool])
        output = {"type": "function_call_output", "call_id": "call_a", "output": "rain"}
        await client.responses.create(
            model="m", input=[output], previous_response_id=first.id, tools=[tool]
        )
    _, assistant, told = gateway.backend.tasks[1].messages
    assert (assistant.reasoning, assistant.signature) == ("hm", "sig")
    assert [(c.call_id, c.name, c.arguments) for c in assistant.tool_calls] == [
        ("call_a", "weather", "{}")
    ]
    assert (told.role, told.text, told.tool_call_id) == ("tool", "rain", "call_a")


async def test_output_given_back_as_input_is_the_same_conversation(gateway: Any) -> None:
    async with gateway.client() as client:
        first = await client.responses.create(model="m", input="one", store=False)
        again = [{"role": "user", "content": "one"}, *first.output]
        again.append({"role": "user", "content": "two"})
        await client.responses.create(model="m", input=again)
    assert turns(gateway.backend.tasks[1]) == [
        ("user", "one"), ("assistant", "hello"), ("user", "two")
    ]  # fmt: skip


async def test_a_reference_stands_for_a_stored_item(gateway: Any) -> None:
    async with gateway.client() as client:
        first = await client.responses.create(model="m", input="one")
        reference = {"type": "item_reference", "id": first.output[0].id}
        await client.responses.create(
            model="m", input=[reference, {"role": "user", "content": "x"}]
        )
        missing = {"id": f"msg_{'0' * 38}"}
        with pytest.raises(openai.BadRequestError, match="no stored item"):
            await client.responses.create(model="m", input=[missing])
    assert turns(gateway.backend.tasks[1]) == [("assistant", "hello"), ("user", "x")]


async def test_a_broken_chain_is_refused_by_its_code(gateway: Any) -> None:
    async with gateway.client() as client:
        first = await client.responses.create(model="m", input="one")
        second = await client.responses.create(
            model="m", input="two", previous_response_id=first.id
        )
        await client.responses.delete(first.id)
        for name in (first.id, second.id, UNKNOWN_ID):
            with pytest.raises(openai.NotFoundError) as caught:
                await client.responses.create(model="m", input="x", previous_response_id=name)
            assert caught.value.code == "previous_response_not_found"
            assert caught.value.param == "previous_response_id"


async def test_input_items_come_in_pages(gateway: Any) -> None:
    async with gateway.client() as client:
        first = await client.responses.create(model="m", input="one")
        second = await client.responses.create(
            model="m",
            input=[{"role": "user", "content": "two"}, {"role": "user", "content": "three"}],
            previous_response_id=first.id,
        )
        page = await client.responses.input_items.list(second.id, order="asc", limit=3)
        assert [item.type for item in page.data] == ["message"] * 3
        assert page.has_more
        everything = [item async for item in page]
        newest = await client.responses.input_items.list(second.id)
    texts = [item.content[0].text for item in everything]
    assert texts == ["one", "hello", "two", "three"]
    assert [item.id for item in newest.data] == [item.id for item in reversed(everything)]


async def test_records_are_their_tenants_own(gateway: Any) -> None:
    async with gateway.client("ann") as ann, gateway.client("bob") as bob:
        made = await ann.responses.create(model="m", input="one", background=True)
        for attempt in (
            bob.responses.retrieve(made.id),
            bob.responses.retrieve(made.id, stream=True),
            bob.responses.cancel(made.id),
            bob.responses.delete(made.id),
            bob.responses.input_items.list(made.id),
            bob.responses.create(model="m", input="x", previous_response_id=made.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await attempt
        reference = {"type": "item_reference", "id": f"msg_{made.id[5:]}010000"}
        with pytest.raises(openai.BadRequestError, match="no stored item"):
            await bob.responses.create(model="m", input=[reference])
        assert (await ann.responses.retrieve(made.id)).id == made.id
    assert gateway.backend.tasks[0].tenant == "ann"


async def test_what_is_not_stored_is_not_found(gateway: Any) -> None:
    async with gateway.client() as client:
        made = await client.responses.create(model="m", input="one", store=False)
        assert made.store is False
        with pytest.raises(openai.NotFoundError) as caught:
            await client.responses.retrieve(made.id)
        assert caught.value.code == "response_not_found"


async def test_records_expire(gateway: Any, redis: RedisProcess) -> None:
    async with gateway.client() as client:
        made = await client.responses.create(model="m", input="one", stream=True)
        events = [event async for event in made]
        name = events[0].response.id
    async with redis_client.Redis.from_url(redis.url) as direct:
        keys = [key async for key in direct.scan_iter("shoal:response:*")]
        lives = [await direct.ttl(key) for key in keys]
    assert len(keys) == 2
    assert all(name in key.decode() for key in keys)
    assert all(3500 < life <= 3600 for life in lives)


async def test_without_redis_only_what_needs_it_is_refused(start_gateway: Any) -> None:
    gateway = await start_gateway("")
    async with gateway.client() as client:
        made = await client.responses.create(model="m", input="one")
        assert made.output_text == "hello"
        assert made.store is False
        for attempt in (
            client.responses.create(model="m", input="one", store=True),
            client.responses.create(model="m", input="one", background=True),
            client.responses.create(model="m", input="x", previous_response_id=made.id),
            client.responses.retrieve(made.id),
        ):
            with pytest.raises(openai.InternalServerError) as caught:
                await attempt
            assert caught.value.status_code == 503
            assert caught.value.code == "response_store_unreachable"


async def test_an_answer_outlives_redis(gateway: Any, redis: RedisProcess) -> None:
    redis.kill()
    async with gateway.client() as client:
        made = await client.responses.create(model="m", input="one")
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model="m", input="one", store=True)
        redis.start()
        kept = await client.responses.create(model="m", input="one", store=True)
        assert (await client.responses.retrieve(kept.id)).output_text == "hello"
    assert (made.output_text, made.store) == ("hello", False)


async def test_what_is_too_large_is_stored_on_request_only(
    start_gateway: Any, redis: RedisProcess
) -> None:
    gateway = await start_gateway(redis.url, size_bytes_max=4096)
    text = "a" * 5000
    async with gateway.client() as client:
        made = await client.responses.create(model="m", input=text)
        assert made.store is False
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model="m", input=text, store=True)
        assert caught.value.status_code == 413
        gateway.backend.script = [TextDelta(text), Finished("stop", Usage(1, 1))]
        stream = await client.responses.create(model="m", input="hi", stream=True)
        events = [event async for event in stream]
        name = events[0].response.id
        assert (await client.responses.retrieve(name)).output_text == text


async def test_truncation_leaves_out_the_oldest_turns(gateway: Any) -> None:
    gateway.backend.messages_max = 3
    items: list[Any] = [{"role": "developer", "content": "rules"}]
    for number in range(9):
        items.append({"role": "user", "content": f"ask {number}"})
        items.append({"role": "assistant", "content": f"say {number}"})
    items.append({"role": "user", "content": "last"})
    async with gateway.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="m", input=items)
        assert caught.value.param == "input"
        await client.responses.create(model="m", input=items, truncation="auto")
        assert turns(gateway.backend.tasks[-1]) == [("system", "rules"), ("user", "last")]
        gateway.backend.messages_max = 1
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model="m", input=items, truncation="auto")


async def test_the_operator_sees_the_newest_of_all(gateway: Any) -> None:
    async with gateway.client("ann") as ann, aiohttp.ClientSession() as session:
        first = await ann.responses.create(model="m", input="the first words")
        gateway.backend.script = [TextDelta("a"), Finished("length", Usage(1, 1))]
        second = await ann.responses.create(model="m", input="two")
        rows = await listed(session, gateway.url)
        assert {row["id"] for row in rows} == {first.id, second.id}
        assert {row["snippet"] for row in rows} == {"the first words", "two"}
        assert rows[0]["tenant"] == "ann"
        (row,) = await listed(session, gateway.url, status="incomplete")
        assert row["id"] == second.id
        assert len(await listed(session, gateway.url, limit="1")) == 1
        for query in ({"limit": "501"}, {"limit": "x"}, {"status": "odd"}):
            url = f"{gateway.url}/api/admin/responses"
            async with session.get(url, params=query) as answer:
                assert answer.status == 400


async def listed(session: aiohttp.ClientSession, url: str, **query: str) -> list[dict[str, Any]]:
    async with session.get(f"{url}/api/admin/responses", params=query) as answer:
        assert answer.status == 200
        rows: list[dict[str, Any]] = (await answer.json())["responses"]
        return rows


async def test_images_and_files_come_back_as_they_were(gateway: Any) -> None:
    pixel = f"data:image/png;base64,{base64.b64encode(b'png').decode()}"
    file = f"data:text/plain;base64,{base64.b64encode('grün'.encode()).decode()}"
    content = [
        {"type": "input_text", "text": "see "},
        {"type": "input_image", "image_url": pixel},
        {"type": "input_file", "filename": "a.txt", "file_data": file},
    ]
    async with gateway.client() as client:
        made = await client.responses.create(
            model="m", input=[{"role": "user", "content": content}]
        )
        items = await client.responses.input_items.list(made.id)
    (message,) = gateway.backend.tasks[0].messages
    assert message.text == "see [a.txt]\ngrün\n"
    assert [(image.data, image.offset) for image in message.images] == [(b"png", 4)]
    parts = [part.to_dict() for part in items.data[0].content]
    assert parts[1:] == [content[1] | {"detail": "auto"}, content[2]]


async def test_many_answers_at_once_are_all_stored(gateway: Any) -> None:
    async with gateway.client() as client:
        made = await asyncio.gather(
            *(client.responses.create(model="m", input=f"{n}") for n in range(100))
        )
        assert all(each.store for each in made)
        for each in made[::25]:
            assert (await client.responses.retrieve(each.id)).id == each.id
