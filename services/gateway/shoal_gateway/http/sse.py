"""Server-sent events on a connection: headers, and pauses that are noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import TypeVar

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # Tells proxies such as nginx not to collect the stream first.
    "X-Accel-Buffering": "no",
}
T = TypeVar("T")


async def with_pauses(
    source: AsyncGenerator[T, None], interval_s: float
) -> AsyncGenerator[T | None, None]:
    """The items of `source`, and None whenever none came for `interval_s`.

    Closing it cancels what `source` waits for and closes `source`.
    """
    pending: asyncio.Task[T] | None = None
    try:
        while True:
            pending = pending or asyncio.create_task(_next(source))
            done, _ = await asyncio.wait((pending,), timeout=interval_s)
            if not done:
                yield None
                continue
            task, pending = pending, None
            try:
                item = task.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        if pending is not None:
            pending.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await pending
        await source.aclose()


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)
