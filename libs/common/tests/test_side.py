"""The side port answers its three paths, and nobody can wedge it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from shoal_common.side import SideServer


class Ready:
    value = False

    def __call__(self) -> bool:
        return self.value


@pytest.fixture
def ready() -> Ready:
    return Ready()


@pytest.fixture
async def server(ready: Ready) -> AsyncIterator[SideServer]:
    registry = CollectorRegistry()
    Counter("shoal_test_requests", "Requests.", registry=registry).inc()
    side = SideServer("127.0.0.1:0", registry, ready)
    await side.start()
    yield side
    await side.stop()


async def _ask(server: SideServer, request: bytes) -> tuple[int, bytes]:
    host, port = server.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), body


async def _get(server: SideServer, path: str) -> tuple[int, bytes]:
    return await _ask(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_health_is_up_while_the_process_runs(server: SideServer) -> None:
    assert await _get(server, "/healthz") == (200, b"ok\n")


async def test_readiness_follows_the_service(server: SideServer, ready: Ready) -> None:
    assert (await _get(server, "/readyz"))[0] == 503
    ready.value = True
    assert (await _get(server, "/readyz?verbose"))[0] == 200


async def test_metrics_show_the_registry_given(server: SideServer) -> None:
    status, body = await _get(server, "/metrics")
    assert status == 200
    assert b"shoal_test_requests_total 1.0" in body


async def test_head_has_no_body(server: SideServer) -> None:
    assert await _ask(server, b"HEAD /healthz HTTP/1.1\r\n\r\n") == (200, b"")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", 404),
        (b"POST /healthz HTTP/1.1", 405),
        (b"nonsense", 400),
        (b"GET /healthz SMTP/1", 400),
        (b"GET /\xff\xfe HTTP/1.1", 404),
    ],
)
async def test_other_requests_get_their_status(
    server: SideServer, request_line: bytes, status: int
) -> None:
    assert (await _ask(server, request_line + b"\r\n\r\n"))[0] == status


async def test_an_endless_header_is_cut_off_and_others_are_served(server: SideServer) -> None:
    host, port = server.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
    with contextlib.suppress(ConnectionResetError):  # the other way of being cut off
        assert await reader.read() == b""
    writer.close()
    assert (await _get(server, "/healthz"))[0] == 200


async def test_connections_beyond_the_bound_are_refused(server: SideServer) -> None:
    host, port = server.address.rsplit(":", 1)
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(33)]
    ended = [asyncio.create_task(reader.read()) for reader, _ in opened]
    done, _ = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    for (_, writer), task in zip(opened, ended, strict=True):
        writer.close()
        task.cancel()
    await asyncio.gather(*ended, return_exceptions=True)


async def test_stop_closes_open_connections_and_may_come_twice(ready: Ready) -> None:
    side = SideServer("127.0.0.1:0", CollectorRegistry(), ready)
    host, port = (await side.start()).rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET")
    await writer.drain()
    await side.stop()
    await side.stop()
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(OSError, match=port):
        await asyncio.open_connection(host, int(port))


async def test_an_empty_address_turns_it_off(ready: Ready) -> None:
    side = SideServer("", CollectorRegistry(), ready)
    assert await side.start() == ""
    await side.stop()
