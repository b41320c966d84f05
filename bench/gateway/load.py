"""Requests in a closed loop over open connections, and how long each took.

Owns a client of little cost of its own: requests are bytes made beforehand, answers are looked at
only as far as is needed to find their end and to count their events.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_DONE = b"data: [DONE]"
_EVENT = b"data: {"
# With the end of the chunk before it: a head may end in a 0, too.
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_ANSWER_TIMEOUT_S = 60.0


class BadAnswer(Exception):
    """Not the answer that was asked for; the text has its beginning."""


@dataclass(frozen=True)
class Reply:
    """duration_s: from the last byte sent to the last byte read. event_count: of a stream."""

    duration_s: float
    event_count: int


def request_bytes(
    url: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> bytes:
    """A POST of `body` as JSON."""
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


class Connection(asyncio.Protocol):
    """Asks one thing after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._parts: list[bytes] = []
        self._waiting: asyncio.Future[bytes] | None = None
        # Bytes of the whole answer; 0 before its head is there, -1 for chunks.
        self._size = 0
        self._have = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(BadAnswer(f"closed after {b''.join(self._parts)[:300]!r}"))

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._have += len(data)
        if self._size == 0:
            self._read_head()
        if self._size < 0:
            # The end may be split over two reads.
            tail = data if len(data) >= len(_LAST_CHUNK) else b"".join(self._parts)
            is_whole = tail.endswith(_LAST_CHUNK)
        else:
            is_whole = 0 < self._size <= self._have
        if is_whole and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(b"".join(self._parts))

    async def ask(self, request: bytes, is_stream: bool) -> Reply:
        """Raises BadAnswer for any status but 200, and for a stream without its end."""
        self._parts, self._size, self._have = [], 0, 0
        self._waiting = asyncio.get_running_loop().create_future()
        began = time.perf_counter()
        self._transport.write(request)
        answer = await asyncio.wait_for(self._waiting, _ANSWER_TIMEOUT_S)
        duration_s = time.perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 200") or is_stream != (_DONE in answer):
            raise BadAnswer(f"{answer[:100]!r} ... {answer[-500:]!r}")
        return Reply(duration_s, answer.count(_EVENT))

    def close(self) -> None:
        self._transport.abort()

    def _read_head(self) -> None:
        answer = b"".join(self._parts)
        end = answer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(answer, 0, end)
        self._size = end + 4 + int(length.group(1)) if length else -1


async def closed_loop(
    url: str, request: bytes, count: int, at_once: int, is_stream: bool = False
) -> list[Reply]:
    """`count` requests, `at_once` of them at any time, each behind the answer to the one before.

    Raises BadAnswer, OSError.
    """
    assert count >= at_once > 0
    host, _, port = urlsplit(url).netloc.rpartition(":")
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(Connection, host, int(port)))[1] for _ in range(at_once)
    ]
    left = iter(range(count))
    replies: list[Reply] = []

    async def work(connection: Connection) -> None:
        for _ in left:
            replies.append(await connection.ask(request, is_stream))

    try:
        await asyncio.gather(*(work(connection) for connection in connections))
    finally:
        # The first error ends the others too: their connections are gone.
        for connection in connections:
            connection.close()
    return replies


def percentile(replies: Sequence[Reply], share: float) -> float:
    """Seconds within which `share` of the replies came."""
    durations = sorted(reply.duration_s for reply in replies)
    return durations[min(len(durations) - 1, int(share * len(durations)))]
