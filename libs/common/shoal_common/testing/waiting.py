"""Waiting for another process or thread that has no event to give.

The one place of the tests that polls. Whatever runs on the test's own loop has an event or obeys
the fake clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.005
_ASK_S = 0.2


async def eventually(probe: Callable[[], T], within_s: float = 20.0) -> T:
    """The first true answer of `probe`. Raises TimeoutError when there is none in time."""
    async with asyncio.timeout(within_s):
        while not (answer := probe()):  # noqa: ASYNC110 that is what it is for
            await asyncio.sleep(_POLL_S)
        return answer


async def eventually_told(ask: Callable[[], Awaitable[T]], within_s: float = 20.0) -> T:
    """The first true answer to `ask`, which asks somebody else and so is asked less often."""
    async with asyncio.timeout(within_s):
        while not (answer := await ask()):  # noqa: ASYNC110
            await asyncio.sleep(_ASK_S)
        return answer
