"""Anthropic's messages over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from shoal_common.clock import Clock
from shoal_gateway.answers import Answers
from shoal_gateway.dialects import anthropic
from shoal_gateway.dialects.anthropic_render import (
    MessageEnvelope,
    MessageStream,
    guess_prompt_tokens,
)
from shoal_gateway.http.body import read_object
from shoal_gateway.http.caller import for_caller, passes_unknown
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.http.provider_relay import ProviderRelay
from shoal_gateway.http.streaming import write_stream
from shoal_gateway.http.trail import trail_of
from shoal_gateway.metrics import Metrics, observed

PATH = "/v1/messages"


@dataclass(frozen=True)
class MessageRoutes:
    """The handlers with what they need."""

    answers: Answers
    metrics: Metrics
    clock: Clock
    is_strict: bool
    keep_alive_s: float
    relay: ProviderRelay | None = None

    def add_to(self, app: web.Application) -> None:
        app.router.add_post(PATH, self.create)
        app.router.add_post(f"{PATH}/count_tokens", self.count_tokens)

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        # Anthropic knows tools and blocks that nobody here does, and judges them itself.
        may_pass = passes_unknown(request) and not self.is_strict
        asked = None if may_pass else anthropic.parse(body, self.is_strict)
        if self.relay is not None:
            task = asked.task if asked is not None else None
            relayed = await self.relay.relay(request, body, task)
            if relayed is not None:
                return relayed
        asked = asked or anthropic.parse(body, self.is_strict)
        request_id = request[REQUEST_ID]
        task = for_caller(request, asked.task)
        answer = await self.answers.open(request_id, task)
        envelope = MessageEnvelope(
            message_id=f"msg_{request_id.removeprefix('req-')}",
            model=answer.model,
            request_id=request_id,
            max_tokens=task.max_tokens or 0,
            prompt_tokens_guess=guess_prompt_tokens(task),
            hides_thinking=asked.hides_thinking,
        )
        events = observed(answer.events(), self.metrics, self.clock, trail_of(request).note)
        if not asked.is_stream:
            return web.json_response(await envelope.whole(events))
        return await write_stream(request, events, MessageStream(envelope), self.keep_alive_s)

    async def count_tokens(self, request: web.Request) -> web.Response:
        task = anthropic.parse_count(await read_object(request), self.is_strict)
        count = await self.answers.count_tokens(for_caller(request, task))
        return web.json_response({"input_tokens": count})
