"""Clients that trickle, flood or nest, on raw sockets."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

KEY = "k" * 64


async def connect(fleet: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(fleet.url)
    return await asyncio.open_connection(address.hostname, address.port)


def head(length: int, *more: str) -> bytes:
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        f"x-api-key: {KEY}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def test_a_head_that_never_ends_is_given_up(start_fleet: Any) -> None:
    async with start_fleet(keepalive_timeout_s=0.2) as fleet:
        reader, writer = await connect(fleet)
        writer.write(head(0)[:-4] + b"\r\nx-more: ")
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_trickling_head_bytes_buy_no_time(start_fleet: Any) -> None:
    async with start_fleet(keepalive_timeout_s=0.3) as fleet:
        reader, writer = await connect(fleet)
        loop = asyncio.get_running_loop()

        def trickle() -> None:
            if not writer.is_closing():
                writer.write(b"x")
                loop.call_later(0.02, trickle)

        writer.write(b"POST / HTTP/1.1\r\nx-slow: ")
        trickle()
        async with asyncio.timeout(10):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


async def test_a_body_that_stops_is_answered(start_fleet: Any) -> None:
    async with start_fleet(read_timeout_s=0.1) as fleet:
        reader, writer = await connect(fleet)
        writer.write(head(1000) + b'{"messages": [')
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n")
            assert answer.startswith(b"HTTP/1.1 408")
            await reader.readuntil(b"body_too_slow")
        writer.close()


async def test_a_stranger_is_answered_before_its_body(fleet: Any) -> None:
    reader, writer = await connect(fleet)
    writer.write(head(30 * 1024 * 1024).replace(KEY.encode(), b"wrong"))
    async with asyncio.timeout(10):
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401")
    writer.close()


@pytest.mark.parametrize(
    "more",
    [["x-long: " + "a" * 9000], [f"x-{index}: a" for index in range(200)]],
    ids=["long", "many"],
)
async def test_heads_are_bounded(
    fleet: Any, more: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reader, writer = await connect(fleet)
    writer.write(head(0, *more))
    async with asyncio.timeout(10):
        assert b" 400 " in await reader.readuntil(b"\r\n")
    writer.close()
    # What a stranger sends is neither an error of ours nor for our logs.
    assert all(record.levelno <= logging.INFO for record in caplog.records)
    assert not [r for r in caplog.records if r.exc_info or "aaaa" in str(vars(r))]


async def post(fleet: Any, raw: bytes) -> tuple[int, str]:
    headers = {"x-api-key": KEY, "Content-Type": "application/json"}
    url = f"{fleet.url}/v1/chat/completions"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=raw, headers=headers) as response,
    ):
        return response.status, (await response.json()).get("error", {}).get("message", "")


def nested(depth: int) -> bytes:
    """A chat body whose deepest value lies `depth` objects and arrays deep."""
    inner = "[" * (depth - 1) + "]" * (depth - 1)
    messages = [{"role": "user", "content": "hi"}]
    return f'{{"messages": {json.dumps(messages)}, "metadata": {inner or 1}}}'.encode()


async def test_bodies_are_only_so_deep(start_fleet: Any) -> None:
    async with start_fleet(json_depth_max=10) as fleet:
        assert (await post(fleet, nested(10)))[0] == 200
        for depth in (11, 500, 5_000, 200_000):
            status, message = await post(fleet, nested(depth))
            assert status == 400, depth
            assert ("depth limit" if depth > 1024 else "nests more than 10") in message


async def test_many_brackets_side_by_side_are_not_deep(fleet: Any) -> None:
    body = {"messages": [{"role": "user", "content": "[" * 500}], "metadata": {"a": [[]] * 500}}
    assert (await post(fleet, json.dumps(body).encode()))[0] == 200


async def test_the_largest_body_is_a_setting(start_fleet: Any) -> None:
    async with start_fleet(max_request_body_bytes=2000) as fleet:
        body = {"messages": [{"role": "user", "content": "hi"}], "metadata": {"a": "x" * 1800}}
        assert (await post(fleet, json.dumps(body).encode()))[0] == 200
        body["metadata"] = {"a": "x" * 2000}
        status, message = await post(fleet, json.dumps(body).encode())
        assert status == 413
        assert "2000 bytes" in message
