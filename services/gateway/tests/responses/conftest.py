"""The routes of responses over a scripted backend, with a real Redis and the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from shoal_common.clock import Clock, SystemClock
from shoal_common.errors import PromptTooLong, ShoalError
from shoal_common.metrics import new_registry
from shoal_common.redis_client import connect
from shoal_common.testing.redis import RedisProcess, start_redis
from shoal_gateway.access.callers import HOUSE, Caller
from shoal_gateway.answers import Answers
from shoal_gateway.http.caller import CALLER
from shoal_gateway.http.middleware import REQUEST_ID, error_response
from shoal_gateway.http.responses import ResponsesRelay, ResponsesRoutes
from shoal_gateway.http.responses_admin import ResponsesAdminRoutes
from shoal_gateway.http.streaming import STREAM
from shoal_gateway.images import ImageUrls
from shoal_gateway.metrics import Metrics
from shoal_gateway.responses.background import BackgroundRuns
from shoal_gateway.responses.store import ResponseStore, StoreLimits
from shoal_gateway.task import Admitted, ChatTask, Event, Finished, TextDelta, Usage

TENANT_HEADER = "x-test-tenant"


def says(*texts: str, reason: Any = "stop") -> list[Any]:
    """The script of an answer in these pieces."""
    usage = Usage(5, len(texts), cached_tokens=2)
    return [Admitted(5, 2), *(TextDelta(text) for text in texts), Finished(reason, usage)]


@dataclass
class ScriptedAnswer:
    """Yields its script: events, an asyncio.Event to wait for, an error to raise."""

    backend: ScriptedBackend
    script: list[Any]
    model: str = "scripted"
    fingerprint: str = "fp_1"

    def again(self, request_id: str, seed: int | None) -> ScriptedAnswer:
        return self

    async def events(self) -> AsyncGenerator[Event, None]:
        self.backend.running_count += 1
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    self.backend.is_holding.set()
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.backend.running_count -= 1
            self.backend.is_closed.set()


@dataclass
class ScriptedBackend:
    """Answers every task with `script`. `messages_max`: longer prompts do not fit."""

    script: list[Any] = field(default_factory=lambda: says("hel", "lo"))
    messages_max: int = 10_000
    tasks: list[ChatTask] = field(default_factory=list)
    running_count: int = 0
    is_holding: asyncio.Event = field(default_factory=asyncio.Event)
    is_closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def serves(self, model: str) -> bool:
        return True

    async def open(self, request_id: str, task: ChatTask) -> ScriptedAnswer:
        if len(task.messages) > self.messages_max:
            raise PromptTooLong(len(task.messages), self.messages_max)
        self.tasks.append(task)
        return ScriptedAnswer(self, list(self.script))

    async def count_tokens(self, task: ChatTask) -> int:
        return len(task.messages)

    async def require_images(self, task: ChatTask) -> None:
        return None


@dataclass
class Gateway:
    """One replica."""

    url: str
    backend: ScriptedBackend
    store: ResponseStore
    runs: BackgroundRuns

    def client(self, tenant: str = "") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key="k",
            max_retries=0,
            default_headers={TENANT_HEADER: tenant},
        )


StartGateway = Callable[..., Any]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisProcess]:
    with start_redis(tmp_path) as process:
        yield process


@pytest.fixture
async def start_gateway(redis: RedisProcess) -> AsyncIterator[StartGateway]:
    """Redis is asked for so that it outlives the gateways."""
    async with AsyncExitStack() as stack:

        async def start(redis_url: str = "", **options: Any) -> Gateway:
            return await stack.enter_async_context(_gateway(redis_url, **options))

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway, redis: RedisProcess) -> Gateway:
    found: Gateway = await start_gateway(redis.url)
    return found


@asynccontextmanager
async def _gateway(
    redis_url: str,
    background_max: int = 4,
    drain_timeout_s: float = 0.1,
    alive_s: float = 15.0,
    size_bytes_max: int = 1 << 20,
    relay: ResponsesRelay | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Gateway]:
    backend, clock = ScriptedBackend(), clock or SystemClock()
    client = connect(redis_url)
    store = ResponseStore(client, StoreLimits(3600.0, size_bytes_max, alive_s), clock)
    runs = BackgroundRuns(store, clock, background_max, drain_timeout_s)
    images = ImageUrls(False, 1.0)
    app = web.Application(middlewares=[_middleware], client_max_size=1 << 25)
    ResponsesRoutes(
        Answers([backend], images),
        store,
        runs,
        Metrics(new_registry()),
        clock,
        False,
        10.0,
        relay,
    ).add_to(app)
    ResponsesAdminRoutes(store).add_to(app)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    try:
        yield Gateway(f"http://{host}:{port}", backend, store, runs)
    finally:
        await runner.cleanup()
        await images.close()
        if client is not None:
            await client.aclose()


@web.middleware
async def _middleware(request: web.Request, handler: Any) -> web.StreamResponse:
    """As the gateway's own, with the tenant out of a header."""
    request[REQUEST_ID] = "req-1"
    caller: Caller = replace(HOUSE, tenant=request.headers.get(TENANT_HEADER, ""))
    request[CALLER] = caller
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except ShoalError as err:
        begun = request.get(STREAM)
        return error_response(request, err) if begun is None else await begun.fail(err)
