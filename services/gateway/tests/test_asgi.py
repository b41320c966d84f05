"""The bridge between aiohttp and an ASGI application, over a real connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shoal_gateway.http.asgi import AsgiApp, answer

Serve = Callable[[AsgiApp], AbstractAsyncContextManager[str]]


@pytest.fixture
def is_over() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def serve(is_over: asyncio.Event) -> Serve:
    @asynccontextmanager
    async def start(app: AsgiApp) -> AsyncIterator[str]:
        async def handle(request: web.Request) -> web.StreamResponse:
            extra = {"shoal.test": 7}
            return await answer(
                app, request, await request.read(), is_over, extra, leave_timeout_s=0.01
            )

        outer = web.Application()
        outer.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(outer, handler_cancellation=True, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            host, port = runner.addresses[0]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()

    return start


async def test_a_request_and_its_answer(serve: Serve, is_over: asyncio.Event) -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, body=await receive())
        headers = [(b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": b"done"})
        assert (await receive())["type"] == "http.disconnect"

    async with (
        serve(app) as url,
        aiohttp.ClientSession() as http,
        http.post(f"{url}/a%20b?c=d%26", data=b"asked", headers={"X-One": "1"}) as got,
    ):
        assert got.status == 201
        assert await got.read() == b"done"
        assert got.headers.getall("Set-Cookie") == ["a=1", "b=2"]
        assert got.headers.get("Connection") != "close"
    assert seen["type"] == "http"
    assert (seen["method"], seen["path"]) == ("POST", "/a b")
    assert (seen["raw_path"], seen["query_string"]) == (b"/a%20b", b"c=d%26")
    assert (b"x-one", b"1") in seen["headers"]
    assert seen["body"] == {"type": "http.request", "body": b"asked", "more_body": False}
    assert seen["shoal.test"] == 7
    assert is_over.is_set()


async def test_parts_reach_the_client_as_they_come(serve: Serve) -> None:
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"two", "more_body": False})

    async with serve(app) as url, aiohttp.ClientSession() as http, http.get(url) as got:
        assert await got.content.readany() == b"one"
        go_on.set()
        assert await got.content.read() == b"two"


async def test_a_fault_before_the_answer_is_the_callers_to_name(serve: Serve) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise web.HTTPGone

    async with serve(app) as url, aiohttp.ClientSession() as http, http.get(url) as got:
        assert got.status == 410


async def test_a_fault_within_the_answer_cuts_the_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        raise ValueError("broken")

    async with serve(app) as url, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError), caplog.at_level(logging.ERROR):
            async with http.get(url) as got:
                await got.read()
    assert "response failed" in caplog.messages


async def test_an_application_hears_that_its_client_has_gone(
    serve: Serve, is_over: asyncio.Event
) -> None:
    waits, has_ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waits.set()
        assert (await receive())["type"] == "http.disconnect"
        assert is_over.is_set()
        # What is sent to nobody is no fault.
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})
        has_ended.set()

    async with serve(app) as url, aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.get(url).__aenter__())
        await waits.wait()
        asking.cancel()
        await asyncio.wait_for(has_ended.wait(), 10)


async def test_an_application_that_does_not_listen_is_cancelled(serve: Serve) -> None:
    waits, is_cancelled = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            waits.set()
            await asyncio.Event().wait()
        finally:
            is_cancelled.set()

    async with serve(app) as url, aiohttp.ClientSession() as http:
        asking = asyncio.create_task(http.get(url).__aenter__())
        await waits.wait()
        asking.cancel()
        await asyncio.wait_for(is_cancelled.wait(), 10)
