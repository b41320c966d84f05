"""A provider that is far away: an OpenAI-compatible server that answers some seconds late.

Owns the delay. What it says comes from a model of a fleet that is asked behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import web


@dataclass
class SlowUpstream:
    """Forwards chat completions to `model` at `target_url`, `delay_s` after they came.

    The target may be named after the start, and changed. `asked`, `cancelled`: requests so far,
    and those whose caller left.
    """

    name: str
    model: str
    delay_s: float
    url: str = ""
    target_url: str = ""
    key: str = ""
    asked: int = 0
    cancelled: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        try:
            return await self._late(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def _late(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        await asyncio.sleep(self.delay_s)
        body["model"] = self.model
        headers = {"Authorization": f"Bearer {self.key}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{self.target_url}/v1/chat/completions", json=body) as far,
        ):
            kind = far.headers.get("Content-Type", "application/json")
            response = web.StreamResponse(status=far.status, headers={"Content-Type": kind})
            await response.prepare(request)
            async for piece in far.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name}]})


@asynccontextmanager
async def slow_upstream(name: str, model: str, delay_s: float) -> AsyncIterator[SlowUpstream]:
    """Listening on a loopback port; set its target before it is asked."""
    upstream = SlowUpstream(name, model, delay_s)
    application = web.Application(client_max_size=64 << 20)
    application.router.add_post("/v1/chat/completions", upstream.answer)
    application.router.add_get("/v1/models", upstream.models)
    # Without it a caller that leaves would be answered to the end.
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        upstream.url = f"http://{host}:{port}/v1"
        yield upstream
    finally:
        await runner.cleanup()
