"""The slow wire: everything arrives, in order, late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from bench.delay_proxy import DelayProxy

DELAY_S = 0.02
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    listening = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with listening:
        host, port = listening.sockets[0].getsockname()
        yield f"{host}:{port}"


@asynccontextmanager
async def connection(
    address: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def through(
    handler: Handler, delay_s: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with this handler, behind a proxy."""
    async with (
        server(handler) as target,
        DelayProxy(target, delay_s) as proxy,
        connection(proxy.address) as streams,
    ):
        yield streams


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(5000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_bytes_come_back_whole_and_in_order() -> None:
    data = random.Random(1).randbytes(700_000)

    async def send(writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(data), 9_999):
            writer.write(data[start : start + 9_999])
            await writer.drain()
        writer.write_eof()

    async with through(echo, 0.001) as (reader, writer):
        _, received = await asyncio.gather(send(writer), reader.read(-1))
    assert received == data


async def test_no_byte_is_early() -> None:
    """Two proxies in a row, there and back: four delays at least."""
    async with (
        server(echo) as target,
        DelayProxy(target, DELAY_S) as near,
        DelayProxy(near.address, DELAY_S) as far,
        connection(far.address) as (reader, writer),
    ):
        loop = asyncio.get_running_loop()
        for _ in range(3):
            sent_at = loop.time()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert loop.time() - sent_at >= 4 * DELAY_S


async def test_a_delay_does_not_add_up_over_pieces() -> None:
    """All pieces wait at the same time: the first is held back as long as it takes to send all."""
    sent = asyncio.Event()
    seen_before_sent = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            seen_before_sent.append(sent.is_set())
        writer.close()

    async with through(note, 0.2) as (reader, writer):
        for _ in range(50):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0)
        sent.set()
        writer.write_eof()
        assert await reader.read() == b""
    assert seen_before_sent == [True] * 50


async def test_an_end_arrives_behind_everything_sent() -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.read(-1)
        writer.write(str(len(received)).encode())
        writer.close()

    async with through(count, 0.001) as (reader, writer):
        writer.write(b"x" * 100_000)
        writer.write_eof()
        assert await reader.read(-1) == b"100000"


async def test_a_target_that_refuses_ends_the_connection() -> None:
    async with server(echo) as target:
        pass
    async with DelayProxy(target, 0.001) as proxy, connection(proxy.address) as (reader, _):
        assert await reader.read() == b""


async def test_leaving_breaks_open_connections_off() -> None:
    async with server(echo) as target, AsyncExitStack() as stack:
        async with DelayProxy(target, 0.001) as proxy:
            reader, writer = await stack.enter_async_context(connection(proxy.address))
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)


async def test_order_survives_a_shorter_delay() -> None:
    async with (
        server(echo) as target,
        DelayProxy(target, DELAY_S) as proxy,
        connection(proxy.address) as (reader, writer),
    ):
        writer.write(b"a" * 3)
        assert await reader.readexactly(3) == b"aaa"
        writer.write(b"b" * 3)
        await writer.drain()
        proxy.delay_s = 0.0
        writer.write(b"c" * 3)
        assert await reader.readexactly(6) == b"bbbccc"
