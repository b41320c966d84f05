"""Responses that OpenAI stores, asked for again through the gateway by the official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import pytest

from shoal_common.testing.redis import RedisProcess
from shoal_gateway.providers.testing import FakeProvider, Reply, fake_provider, whole

KEY = "k" * 64
FAR_ID = "resp_68a1b2c3d4e5f60718293a4b5c6d7e8f9a0b1c2d3e4f5061"
USAGE = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}


def response(status: str = "completed", **fields: Any) -> dict[str, Any]:
    value = {"id": FAR_ID, "object": "response", "model": "gpt-5-2025", "status": status}
    ends = {"output": [], "error": None, "usage": USAGE if status == "completed" else None}
    return value | ends | fields


def stream(*kinds: str) -> Reply:
    """Events of a response as api.openai.com names and writes them."""
    chunks = []
    for number, kind in enumerate(kinds):
        status = "completed" if kind == "completed" else "in_progress"
        event = {"type": f"response.{kind}", "sequence_number": number}
        data = json.dumps(event | {"response": response(status)})
        chunks.append(f"event: response.{kind}\ndata: {data}\n\n".encode())
    return Reply(chunks)


@dataclass
class House:
    """Two tenants of a gateway in front of one provider."""

    ann: openai.AsyncOpenAI
    bob: openai.AsyncOpenAI
    http: aiohttp.ClientSession
    provider: FakeProvider

    async def tokens_counted(self, kind: str) -> float:
        async with self.http.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        name = f'shoal_gateway_tokens_total{{kind="{kind}"}} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@pytest.fixture
def start_house(start_fleet: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")

    async def start(stack: AsyncExitStack, redis_url: str) -> House:
        provider = await stack.enter_async_context(fake_provider())
        urls = {"openai": provider.url}
        fleet = await stack.enter_async_context(
            start_fleet(redis_url=redis_url, provider_base_urls=urls)
        )
        http = await stack.enter_async_context(
            aiohttp.ClientSession(fleet.url, headers={"x-api-key": KEY})
        )
        clients = []
        for name in ("ann", "bob"):
            async with http.post("/api/admin/keys", json={"name": name}) as answer:
                key = (await answer.json())["key"]
            clients.append(
                await stack.enter_async_context(
                    openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=key, max_retries=0)
                )
            )
        return House(*clients, http, provider)

    return start


@pytest.fixture
async def house(start_house: Any, redis: RedisProcess) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        yield await start_house(stack, redis.url)


async def test_what_openai_stores_is_found_again(house: House) -> None:
    house.provider.says(whole(response()))
    made = await house.ann.responses.create(model="gpt-5", input="hi")
    found = await house.ann.responses.retrieve(made.id, include=["reasoning.encrypted_content"])
    assert found.id == made.id
    items = {"object": "list", "data": [], "has_more": False, "first_id": "", "last_id": ""}
    house.provider.says(whole(items))
    page = await house.ann.responses.input_items.list(made.id, limit=5)
    assert page.data == []
    house.provider.says(whole(response("cancelled")))
    assert (await house.ann.responses.cancel(made.id)).status == "cancelled"
    seen = [(one.method, one.path, one.query) for one in house.provider.seen]
    assert seen == [
        ("POST", "/v1/responses", ""),
        ("GET", f"/v1/responses/{FAR_ID}", "include[]=reasoning.encrypted_content"),
        ("GET", f"/v1/responses/{FAR_ID}/input_items", "limit=5"),
        ("POST", f"/v1/responses/{FAR_ID}/cancel", ""),
    ]
    assert {one.headers["Authorization"] for one in house.provider.seen} == {"Bearer sk-openai"}
    assert await house.tokens_counted("completion") == 2


async def test_a_stream_is_remembered_and_resumed(house: House) -> None:
    reply = stream("created", "in_progress", "completed")
    house.provider.says(reply)
    events = await house.ann.responses.create(model="gpt-5", input="hi", stream=True)
    assert [event.type async for event in events][-1] == "response.completed"
    house.provider.says(Reply(reply.chunks[2:]))
    again = await house.ann.responses.retrieve(FAR_ID, stream=True, starting_after=1)
    assert [event.sequence_number async for event in again] == [2]
    assert house.provider.seen[-1].query == "starting_after=1&stream=true"
    assert await house.tokens_counted("completion") == 2


async def test_nobody_else_reaches_a_response(house: House) -> None:
    house.provider.says(whole(response()))
    await house.ann.responses.create(model="gpt-5", input="hi")
    for ask in (
        house.bob.responses.retrieve,
        house.bob.responses.delete,
        house.bob.responses.cancel,
        house.bob.responses.input_items.list,
    ):
        with pytest.raises(openai.NotFoundError):
            await ask(FAR_ID)
    with pytest.raises(openai.NotFoundError) as caught:
        await house.bob.responses.create(model="gpt-5", input="go on", previous_response_id=FAR_ID)
    assert caught.value.param == "previous_response_id"
    assert len(house.provider.seen) == 1


async def test_what_is_deleted_is_forgotten(house: House) -> None:
    house.provider.says(whole(response()))
    await house.ann.responses.create(model="gpt-5", input="hi")
    house.provider.says(whole({"id": FAR_ID, "object": "response", "deleted": True}))
    await house.ann.responses.delete(FAR_ID)
    assert house.provider.seen[-1].method == "DELETE"
    with pytest.raises(openai.NotFoundError):
        await house.ann.responses.retrieve(FAR_ID)
    assert len(house.provider.seen) == 2


async def test_what_openai_has_forgotten_is_not_found(house: House) -> None:
    house.provider.says(whole(response()), whole({"error": {"message": "no such"}}, 404))
    await house.ann.responses.create(model="gpt-5", input="hi")
    with pytest.raises(openai.NotFoundError) as caught:
        await house.ann.responses.retrieve(FAR_ID)
    assert caught.value.code == "response_not_found"


async def test_a_failed_response_is_an_answer(house: House) -> None:
    error = {"code": "server_error", "message": "engine gone"}
    house.provider.says(whole(response()), whole(response("failed", error=error)))
    await house.ann.responses.create(model="gpt-5", input="hi")
    found = await house.ann.responses.retrieve(FAR_ID)
    assert found.error is not None
    assert found.error.message == "engine gone"


async def test_usage_of_the_background_is_counted_once(house: House) -> None:
    house.provider.says(whole(response("queued")), whole(response()))
    made = await house.ann.responses.create(model="gpt-5", input="hi", background=True)
    assert await house.tokens_counted("completion") == 0
    for _ in range(2):
        assert (await house.ann.responses.retrieve(made.id)).status == "completed"
    assert await house.tokens_counted("completion") == 2


async def test_a_conversation_goes_on_where_it_is_kept(house: House) -> None:
    house.provider.says(whole(response()))
    made = await house.ann.responses.create(model="gpt-5", input="hi")
    await house.ann.responses.create(input="go on", previous_response_id=made.id)
    assert house.provider.seen[-1].body == {
        "model": "gpt-5",
        "input": "go on",
        "previous_response_id": FAR_ID,
    }
    with pytest.raises(openai.BadRequestError, match="kept by provider 'openai'"):
        await house.ann.responses.create(
            model="heavyweight", input="go on", previous_response_id=made.id
        )


async def test_what_is_kept_here_goes_on_at_openai(house: House) -> None:
    ours = await house.ann.responses.create(model="heavyweight", input="hi")
    message = {"role": "assistant", "content": "far"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    house.provider.says(whole({"id": "c", "object": "chat.completion", "choices": choices}))
    made = await house.ann.responses.create(
        model="gpt-5", input="go on", previous_response_id=ours.id
    )
    assert made.output_text == "far"
    (seen,) = house.provider.seen
    assert seen.path == "/v1/chat/completions"
    assert [message["content"] for message in seen.body["messages"]] == ["hi", "hello", "go on"]


async def test_without_redis_only_what_needs_it_is_refused(start_house: Any) -> None:
    async with AsyncExitStack() as stack:
        house = await start_house(stack, "")
        house.provider.says(whole(response()))
        assert (await house.ann.responses.create(model="gpt-5", input="hi")).id == FAR_ID
        asked: Any
        for asked in ({"background": True}, {"previous_response_id": FAR_ID}):
            with pytest.raises(openai.InternalServerError) as caught:
                await house.ann.responses.create(model="gpt-5", input="hi", **asked)
            assert caught.value.status_code == 503
        with pytest.raises(openai.InternalServerError) as caught:
            await house.ann.responses.retrieve(FAR_ID)
        assert caught.value.code == "response_store_unreachable"
        assert len(house.provider.seen) == 1
