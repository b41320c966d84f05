"""An embeddings API on port 0, in the shape that OpenAI's answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

KEY = "sk-test-0123456789abcdef"


def answer_of(rows: Sequence[Sequence[float]], token_count: int = 5) -> dict[str, Any]:
    """A whole answer with `rows` in order."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": list(row)}
            for index, row in enumerate(rows)
        ],
        "model": "fake",
        "usage": {"prompt_tokens": token_count, "total_tokens": token_count},
    }


class FakeUpstream:
    """Gives a text of n letters the vector (n, 0, ... 1); `answer` may be replaced.

    bodies, headers: of the requests so far. arrived: set by each request.
    """

    def __init__(self, dimensions: int = 4) -> None:
        self.dimensions = dimensions
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.arrived = asyncio.Event()
        self.released = asyncio.Event()
        self.released.set()
        self.url = ""
        self.answer: Callable[[dict[str, Any]], web.Response] = self.usual

    def usual(self, body: dict[str, Any]) -> web.Response:
        middle = [0.0] * (self.dimensions - 2)
        return web.json_response(answer_of([[len(text), *middle, 1] for text in body["input"]]))

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        self.arrived.set()
        await self.released.wait()
        return self.answer(self.bodies[-1])


@asynccontextmanager
async def upstream(dimensions: int = 4) -> AsyncIterator[FakeUpstream]:
    """One that listens; its `url` is a base URL."""
    fake = FakeUpstream(dimensions)
    app = web.Application()
    app.router.add_post("/v1/embeddings", fake.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield fake
    finally:
        fake.released.set()
        await runner.cleanup()
