"""One answer's events onto an open connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from shoal_common.errors import ShoalError
from shoal_gateway.dialects.render import StreamRenderer
from shoal_gateway.http import sse
from shoal_gateway.http.trail import TRAIL

T = TypeVar("T")


@dataclass(frozen=True)
class BegunStream:
    """Its status is out, so an error becomes its last event."""

    response: web.StreamResponse
    renderer: StreamRenderer[Any]

    async def fail(self, error: ShoalError) -> web.StreamResponse:
        await self.response.write(self.renderer.failure(error))
        await self.response.write_eof()
        return self.response


STREAM = web.RequestKey("stream", BegunStream)


async def write_stream(
    request: web.Request,
    events: AsyncGenerator[T, None],
    renderer: StreamRenderer[T],
    keep_alive_s: float,
) -> web.StreamResponse:
    """Writes until the events end; one write for each.

    The status goes out with the first byte, so an error before it has its own. Errors are the
    middleware's to answer, before the first byte and after it.
    """
    response = web.StreamResponse(headers=sse.HEADERS)
    silence = sse.Silence(keep_alive_s)
    trail = request.get(TRAIL)
    # Held by who writes: the head goes out once, and a slow client gets no more than it can take.
    writing = asyncio.Lock()

    async def write(data: bytes) -> None:
        if not response.prepared:
            await response.prepare(request)
            request[STREAM] = BegunStream(response, renderer)
        await response.write(data)

    async def keep_alive() -> None:
        async with writing:
            if silence.left_s <= 0 and (data := renderer.keep_alive()):
                await write(data)

    async with aclosing(events), silence.answered(keep_alive):
        async for event in events:
            if data := renderer.feed(event):
                if trail is not None and trail.is_news:
                    data = trail.comment() + data
                async with writing:
                    await write(data)
                silence.broken()
    await response.write_eof()
    return response
