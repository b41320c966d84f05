"""The client against a real HTTP server that speaks the gateway's dialect, well or badly."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from shoal_cli import bench
from shoal_cli.chat import Chat
from shoal_cli.client import Delta, GatewayClient, is_ready, pick_model
from shoal_cli.errors import GatewayFailed


def chunk(text: str) -> dict[str, object]:
    return {"choices": [{"delta": {"content": text}}]}


END: dict[str, object] = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
USAGE: dict[str, object] = {"choices": [], "usage": {"completion_tokens": 5}}


class Gateway:
    """Answers every chat with `events`; keeps the bodies it got."""

    def __init__(self) -> None:
        self.events: list[object] = [chunk("Hel"), chunk("lo"), END, USAGE, "[DONE]"]
        self.bodies: list[dict[str, object]] = []
        self.url = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != "Bearer key":
            error = {"error": {"message": "wrong API key", "type": "invalid_request_error"}}
            return web.json_response(error, status=401)
        body = await request.json()
        self.bodies.append(body)
        if not body["stream"]:
            message = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
            return web.json_response({**message, "usage": {"completion_tokens": 5}})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in self.events:
            data = event if isinstance(event, str) else json.dumps(event)
            await response.write(f": comment\n\ndata: {data}\n\n".encode())
        return response

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "auto"}, {"id": "heavyweight"}]})

    async def ready(self, request: web.Request) -> web.Response:
        return web.Response()


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    fake, app = Gateway(), web.Application()
    app.router.add_post("/v1/chat/completions", fake.chat)
    app.router.add_get("/v1/models", fake.models)
    app.router.add_get("/health/ready", fake.ready)
    async with TestServer(app) as server:
        fake.url = str(server.make_url("")).rstrip("/")
        yield fake


async def streamed(fake: Gateway, key: str = "key") -> list[Delta]:
    async with GatewayClient(fake.url, key) as client:
        return [delta async for delta in client.stream({"model": "m"})]


async def test_stream_gives_text_reason_and_usage(gateway: Gateway) -> None:
    assert await streamed(gateway) == [
        Delta("Hel"),
        Delta("lo"),
        Delta(finish_reason="stop"),
        Delta(completion_tokens=5),
    ]
    assert gateway.bodies[0]["stream_options"] == {"include_usage": True}


async def test_error_event_in_the_middle_raises(gateway: Gateway) -> None:
    gateway.events = [chunk("Hel"), {"error": {"message": "worker w1 failed"}}]
    with pytest.raises(GatewayFailed, match="worker w1 failed"):
        await streamed(gateway)


async def test_stream_that_just_ends_raises(gateway: Gateway) -> None:
    gateway.events = [chunk("Hel")]
    with pytest.raises(GatewayFailed, match="in the middle"):
        await streamed(gateway)


async def test_wrong_key_gives_the_gateways_words(gateway: Gateway) -> None:
    with pytest.raises(GatewayFailed, match="401: wrong API key"):
        await streamed(gateway, key="other")


async def test_no_gateway_says_what_to_do(unused_port: int) -> None:
    async with GatewayClient(f"http://127.0.0.1:{unused_port}", "key") as client:
        with pytest.raises(GatewayFailed, match="shoal up"):
            await client.models()
    assert not await is_ready(f"http://127.0.0.1:{unused_port}")


async def test_refused_connection_is_said_in_plain_words(unused_port: int) -> None:
    async with GatewayClient(f"http://127.0.0.1:{unused_port}", "key") as client:
        with pytest.raises(GatewayFailed, match=r"does not answer \(.*refused.*\): start"):
            await client.models()


async def test_ready_and_models(gateway: Gateway) -> None:
    assert await is_ready(gateway.url)
    async with GatewayClient(gateway.url, "key") as client:
        served = await client.models()
    assert pick_model(served, None) == "heavyweight"
    assert pick_model(served, "heavyweight") == "heavyweight"
    assert pick_model(served, "auto") == "auto"


def test_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(GatewayFailed, match="not serve 'other'; it serves: drafter, heavyweight"):
        pick_model(["drafter", "heavyweight"], "other")


def test_no_model_served_is_said() -> None:
    with pytest.raises(GatewayFailed, match="no model"):
        pick_model(["auto"], None)


async def test_chat_carries_earlier_turns_and_options(gateway: Gateway) -> None:
    client = GatewayClient(gateway.url, "key")
    chat = Chat(client, "m", system="Be brief.", max_tokens=9, temperature=0.0)
    written: list[str] = []
    async with client:
        for text in ("Hi", "More"):
            await chat.say(text, written.append)
    assert "".join(written) == "HelloHello"
    assert [body["messages"] for body in gateway.bodies][1] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "More"},
    ]
    assert gateway.bodies[0]["max_tokens"] == 9
    assert gateway.bodies[0]["temperature"] == 0.0


async def test_failed_turn_leaves_no_trace_in_the_conversation(gateway: Gateway) -> None:
    gateway.events = [chunk("Hel"), {"error": {"message": "lost"}}]
    async with GatewayClient(gateway.url, "key") as client:
        chat = Chat(client, "m")
        with pytest.raises(GatewayFailed, match="lost"):
            await chat.say("Hi", lambda text: None)
    assert chat.turns == []


@pytest.mark.parametrize("is_stream", [True, False])
async def test_bench_sends_all_requests(gateway: Gateway, is_stream: bool) -> None:
    options = bench.BenchOptions("m", "p", 7, iterations=2, concurrency=3, is_stream=is_stream)
    done: list[None] = []
    async with GatewayClient(gateway.url, "key") as client:
        measured = await bench.run(client, options, lambda: done.append(None))
    assert len(gateway.bodies) == len(measured) == len(done) == 6
    assert {one.token_count for one in measured} == {5}
    assert {len(one.arrivals_s) for one in measured} == {2 if is_stream else 0}
