"""Responses through the whole gateway: its middlewares, its backend, a stage behind gRPC."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from shoal_common.testing.redis import RedisProcess

KEY = "k" * 64
HEADERS = {"Authorization": f"Bearer {KEY}"}


def client_of(fleet: Any, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=key, max_retries=0)


async def test_an_answer_comes_from_the_stage(start_fleet: Any, redis: RedisProcess) -> None:
    async with start_fleet(redis_url=redis.url) as fleet, client_of(fleet) as client:
        made = await client.responses.create(model="heavyweight", input="hi")
        assert made.output_text == "hello"
        async with client.responses.stream(model="heavyweight", input="hi") as stream:
            assert (await stream.get_final_response()).output_text == "hello"
        assert (await client.responses.retrieve(made.id)).output_text == "hello"


async def test_a_stream_begins_before_the_model_does(fleet: Any) -> None:
    fleet.router.queue = asyncio.Event()
    async with client_of(fleet) as client:
        stream = await client.responses.create(model="heavyweight", input="hi", stream=True)
        first, second = await anext(stream), await anext(stream)
        assert (first.type, second.type) == ("response.created", "response.in_progress")
        assert not fleet.stage.requests
        fleet.router.queue.set()
        assert [event.type async for event in stream][-1] == "response.completed"


async def test_cancel_frees_the_stage(start_fleet: Any, redis: RedisProcess) -> None:
    async with start_fleet(redis_url=redis.url) as fleet, client_of(fleet) as client:
        fleet.stage.hold = 1
        made = await client.responses.create(model="heavyweight", input="hi", background=True)
        await fleet.stage.is_holding.wait()
        cancelled = await client.responses.cancel(made.id)
        assert cancelled.status == "cancelled"
        async with asyncio.timeout(5):
            await fleet.stage.is_cancelled.wait()
            await fleet.router.is_closed.wait()


async def test_a_client_that_leaves_frees_the_stage(fleet: Any) -> None:
    fleet.stage.hold = 1
    async with client_of(fleet) as client:
        stream = await client.responses.create(model="heavyweight", input="hi", stream=True)
        await fleet.stage.is_holding.wait()
        await stream.close()
        async with asyncio.timeout(5):
            await fleet.stage.is_cancelled.wait()


async def test_a_gateway_that_stops_fails_what_runs(start_fleet: Any, redis: RedisProcess) -> None:
    async with start_fleet(redis_url=redis.url) as fleet, client_of(fleet) as client:
        fleet.stage.hold = 1
        made = await client.responses.create(model="heavyweight", input="hi", background=True)
        await fleet.stage.is_holding.wait()
    assert fleet.stage.is_cancelled.is_set()
    async with start_fleet(redis_url=redis.url) as again, client_of(again) as client:
        found = await client.responses.retrieve(made.id)
    assert found.status == "failed"


async def test_one_key_does_not_see_the_responses_of_another(
    start_fleet: Any, redis: RedisProcess
) -> None:
    async with start_fleet(redis_url=redis.url) as fleet, aiohttp.ClientSession() as session:
        keys = []
        for name in ("ann", "bob"):
            async with session.post(
                f"{fleet.url}/api/admin/keys", json={"name": name}, headers=HEADERS
            ) as answer:
                assert answer.status == 201, await answer.text()
                keys.append((await answer.json())["key"])
        async with client_of(fleet, keys[0]) as ann, client_of(fleet, keys[1]) as bob:
            made = await ann.responses.create(model="heavyweight", input="hi")
            with pytest.raises(openai.NotFoundError):
                await bob.responses.retrieve(made.id)
            assert (await ann.responses.retrieve(made.id)).id == made.id
        url = f"{fleet.url}/api/admin/responses"
        async with session.get(url, headers=HEADERS) as answer:
            assert [row["id"] for row in (await answer.json())["responses"]] == [made.id]
        async with session.get(url, headers={"x-api-key": keys[0]}) as answer:
            assert answer.status == 403


async def test_a_schema_that_cannot_hold_names_the_field(fleet: Any) -> None:
    async with client_of(fleet) as client:
        for body, param in (
            ({"model": "nobody", "input": "hi"}, "model"),
            ({"model": "heavyweight", "input": "hi " * 600}, "input"),
            (
                {
                    "model": "heavyweight",
                    "input": [
                        {
                            "role": "user",
                            "content": [
                                {
                                    "type": "input_image",
                                    "image_url": "data:image/png;base64,YQ==",
                                }
                            ],
                        }
                    ],
                },
                "input",
            ),
        ):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.responses.create(**body)
            assert caught.value.status_code in (400, 404)
            assert caught.value.param == param


async def test_a_relay_goes_before_everything_but_the_door(start_gateway: Any) -> None:
    class Relay:
        async def relay(
            self, request: web.Request, body: dict[str, Any]
        ) -> web.StreamResponse | None:
            return web.json_response({"mine": body}) if body["model"] == "far" else None

    gateway = await start_gateway("", relay=Relay())
    async with aiohttp.ClientSession() as session:
        url = f"{gateway.url}/v1/responses"
        # A body that nobody here could serve goes out as it came.
        body = {"model": "far", "tools": [{"type": "web_search"}], "conversation": "c"}
        async with session.post(url, json=body) as answer:
            assert await answer.json() == {"mine": body}
        async with session.post(url, json=body | {"user": "u" * 257}) as answer:
            assert answer.status == 400
            assert json.loads(await answer.text())["error"]["param"] == "user"
        async with session.post(url, json={"model": "near", "input": "hi"}) as answer:
            assert (await answer.json())["status"] == "completed"
