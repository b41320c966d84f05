"""OpenAI's older completions over HTTP: prompts without a template, on this fleet's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from shoal_common.clock import Clock
from shoal_gateway.answers import Answer, Answers
from shoal_gateway.choices import merged, open_choices
from shoal_gateway.dialects import openai_completions
from shoal_gateway.dialects.openai_completions import CompletionRequest
from shoal_gateway.dialects.openai_completions_render import CompletionEnvelope, CompletionStream
from shoal_gateway.dialects.openai_render import ChatEnvelope
from shoal_gateway.http.body import read_object
from shoal_gateway.http.caller import for_caller
from shoal_gateway.http.chat import collect_all
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.http.streaming import write_stream
from shoal_gateway.http.trail import trail_of
from shoal_gateway.metrics import Metrics, observed
from shoal_gateway.task import ChatTask


@dataclass(frozen=True)
class CompletionRoutes:
    """The handler with what it needs. `answers` knows only backends that take raw prompts."""

    answers: Answers
    metrics: Metrics
    clock: Clock
    is_strict: bool
    keep_alive_s: float

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/completions", self.complete)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = openai_completions.parse(await read_object(request), self.is_strict)
        tasks = [for_caller(request, task) for task in asked.tasks]
        opened = await self._open(request[REQUEST_ID], tasks)
        envelope = self._envelope(request[REQUEST_ID], asked, opened[0])
        note = trail_of(request).note
        events = [observed(answer.events(), self.metrics, self.clock, note) for answer in opened]
        if not asked.is_stream:
            return web.json_response(envelope.whole(await collect_all(events)))
        renderer = CompletionStream(envelope, asked.wants_usage)
        return await write_stream(request, merged(events), renderer, self.keep_alive_s)

    async def _open(self, request_id: str, tasks: Sequence[ChatTask]) -> list[Answer]:
        """Prompt by prompt, each with its choices."""
        if len(tasks) == 1:
            return await open_choices(self.answers, request_id, tasks[0])
        opened: list[Answer] = []
        for index, task in enumerate(tasks):
            opened += await open_choices(self.answers, f"{request_id}-p{index}", task)
        return opened

    def _envelope(
        self, request_id: str, asked: CompletionRequest, first: Answer
    ) -> CompletionEnvelope:
        prompts = (task.raw_prompt.text if task.raw_prompt else "" for task in asked.tasks)
        return CompletionEnvelope(
            base=ChatEnvelope(
                response_id=f"cmpl-{request_id.removeprefix('req-')}",
                created=int(self.clock.time()),
                model=first.model,
                fingerprint=first.fingerprint,
                wants_logprobs=asked.tasks[0].logprobs,
            ),
            prompts=tuple(prompt if asked.echo else "" for prompt in prompts),
            per_prompt=asked.tasks[0].choice_count,
        )
