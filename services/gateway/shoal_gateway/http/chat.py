"""OpenAI's chat completions over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from aiohttp import web

from shoal_common.clock import Clock
from shoal_gateway.answers import Answers
from shoal_gateway.choices import merged, open_choices
from shoal_gateway.collect import Collected, collect
from shoal_gateway.dialects import openai_chat
from shoal_gateway.dialects.openai_render import ChatEnvelope, ChatStream
from shoal_gateway.http.body import read_object
from shoal_gateway.http.caller import for_caller, passes_unknown
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.http.provider_relay import ProviderRelay
from shoal_gateway.http.streaming import write_stream
from shoal_gateway.http.trail import trail_of
from shoal_gateway.metrics import Metrics, observed
from shoal_gateway.task import Event


@dataclass(frozen=True)
class ChatRoutes:
    """The handler with what it needs."""

    answers: Answers
    metrics: Metrics
    clock: Clock
    is_strict: bool
    keep_alive_s: float
    relay: ProviderRelay | None = None

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self.chat)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        # A provider of this dialect knows more of it than anybody here, and judges it itself.
        may_pass = passes_unknown(request) and not self.is_strict
        chat = None if may_pass else openai_chat.parse(body, self.is_strict)
        if self.relay is not None:
            relayed = await self.relay.relay(request, body, chat.task if chat is not None else None)
            if relayed is not None:
                return relayed
        chat = chat or openai_chat.parse(body, self.is_strict)
        request_id = request[REQUEST_ID]
        task = for_caller(request, chat.task)
        opened = await open_choices(self.answers, request_id, task)
        envelope = ChatEnvelope(
            response_id=f"chatcmpl-{request_id.removeprefix('req-')}",
            created=int(self.clock.time()),
            model=opened[0].model,
            fingerprint=opened[0].fingerprint,
            wants_logprobs=chat.task.logprobs,
        )
        note = trail_of(request).note
        events = [observed(answer.events(), self.metrics, self.clock, note) for answer in opened]
        if not chat.is_stream:
            return web.json_response(envelope.whole(await collect_all(events)))
        renderer = ChatStream(envelope, len(opened), chat.wants_usage)
        return await write_stream(request, merged(events), renderer, self.keep_alive_s)


async def collect_all(sources: Sequence[AsyncGenerator[Event, None]]) -> list[Collected]:
    """All answers in whole, in order; the first error ends all."""
    if len(sources) == 1:
        return [await collect(sources[0])]
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(collect(source)) for source in sources]
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return [task.result() for task in running]
