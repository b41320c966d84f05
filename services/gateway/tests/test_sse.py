"""Server-sent events and their pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from shoal_gateway.dialects.sse import data_event
from shoal_gateway.http.sse import with_pauses


def test_an_event_is_one_line_whatever_the_text() -> None:
    assert data_event({"text": "a\nb 🦈"}) == 'data: {"text":"a\\nb 🦈"}\n\n'.encode()


async def test_pauses_come_between_items_and_lose_none() -> None:
    gate = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        yield 1
        await gate.wait()
        yield 2

    seen: list[int | None] = []
    async for item in with_pauses(source(), interval_s=0.01):
        seen.append(item)
        if item is None:
            gate.set()
    assert [item for item in seen if item is not None] == [1, 2]
    assert seen[1] is None


async def test_closing_ends_the_source_while_it_waits() -> None:
    is_closed = asyncio.Event()

    async def source() -> AsyncGenerator[int, None]:
        try:
            await asyncio.Event().wait()
            yield 1
        finally:
            is_closed.set()

    paced = with_pauses(source(), interval_s=0.01)
    assert await anext(paced) is None
    await paced.aclose()
    assert is_closed.is_set()


async def test_an_error_of_the_source_comes_out() -> None:
    async def source() -> AsyncGenerator[int, None]:
        yield 1
        raise LookupError

    paced = with_pauses(source(), interval_s=10.0)
    assert await anext(paced) == 1
    with pytest.raises(LookupError):
        await anext(paced)
