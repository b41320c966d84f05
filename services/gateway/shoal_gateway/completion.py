"""The life of one request, from ChatTask to its last event.

1. Prepare: find the model, render its template, tokenise, decide sampling and the token budget.
2. Plan: hold a plan open at the router for as long as the generation lives.
3. Generate: the head of the plan's pipeline streams token ids.
4. Text: ids become whole characters, up to the first stop string.
5. Lost stage: say so, wait briefly for another plan, go on behind the ids already delivered.
6. Finish: reason and usage; leaving releases the plan and frees the sequence on every stage.

Owns the request; does not know HTTP, nor how a layer is computed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from shoal.common.v1 import chat_pb2
from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2, stage_pb2
from shoal_common.clock import Clock
from shoal_common.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidGrammar,
    InvalidRequest,
    Overloaded,
    PromptTooLong,
    ShoalError,
    StageFailed,
)
from shoal_common.tokens import ModelTokens, TemplateFailed, TemplateRenderer
from shoal_gateway.errors import ModelNotReady, ModelReplaced
from shoal_gateway.models import ModelDirectory, ModelLibrary
from shoal_gateway.peers import PlanStream, Router, Stages
from shoal_gateway.reply import Reply
from shoal_gateway.sampling import SamplingDefaults, grammar_of, resolve
from shoal_gateway.task import (
    Admitted,
    ChatTask,
    Event,
    Finished,
    FinishReason,
    Message,
    Queued,
    Usage,
)

log = logging.getLogger(__name__)

# Shorter prompts are tokenised in less time than a thread takes to answer.
INLINE_PROMPT_CHARS_MAX = 4096


@dataclass(frozen=True)
class CompletionLimits:
    """How long and how often a request may wait."""

    plan_timeout_s: float = 600.0
    replan_timeout_s: float = 1.0
    attempts_max: int = 3


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be planned."""

    request_id: str
    task: ChatTask
    model: str
    revision: str
    tokens: ModelTokens
    prompt_ids: tuple[int, ...] = field(repr=False)
    sampling: chat_pb2.SamplingSpec = field(repr=False)
    max_tokens: int


class Completer:
    """Serves any number of requests at once; keeps nothing of them."""

    def __init__(
        self,
        router: Router,
        stages: Stages,
        directory: ModelDirectory,
        library: ModelLibrary,
        renderer: TemplateRenderer,
        defaults: SamplingDefaults,
        limits: CompletionLimits,
        clock: Clock,
    ) -> None:
        self._router = router
        self._stages = stages
        self._directory = directory
        self._library = library
        self._renderer = renderer
        self._defaults = defaults
        self._limits = limits
        self._clock = clock

    async def prepare(self, request_id: str, task: ChatTask) -> Prepared:
        """Step 1. Raises InvalidRequest for what the caller must change."""
        state = await self._directory.find(task.model)
        tokens = await self._library.tokens(state.model, state.revision)
        prompt_ids = await self._prompt_ids(task, tokens)
        return Prepared(
            request_id=request_id,
            task=task,
            model=state.model,
            revision=state.revision,
            tokens=tokens,
            prompt_ids=prompt_ids,
            sampling=resolve(task, self._defaults, tokens.generation_config),
            max_tokens=self._token_budget(task, len(prompt_ids), state.context_length),
        )

    async def run(self, prepared: Prepared) -> AsyncGenerator[Event, None]:
        """Steps 2 to 6. Close the iterator to give up: that frees everything at once."""
        reply = Reply(prepared.tokens, prepared.task.stop, prepared.task.logprobs)
        async with self._router.open_plan(_plan_open(prepared)) as plans:
            give_up_at = self._clock.monotonic() + self._limits.plan_timeout_s
            while isinstance(plan := await self._first_plan(plans, give_up_at), Queued):
                yield plan
            while True:
                try:
                    async with aclosing(self._attempt(prepared, plan, reply)) as events:
                        async for event in events:
                            yield event
                    return
                except InvalidGrammar as err:
                    asked = prepared.task.reply_format
                    err.param = asked.param if asked is not None else None
                    raise
                except ShoalError as err:
                    plan = await self._replan(plans, plan, err)

    async def _prompt_ids(self, task: ChatTask, tokens: ModelTokens) -> tuple[int, ...]:
        source = tokens.template(has_tools=bool(task.tools))
        if source is None:
            raise TemplateFailed("the model has none, so it cannot chat")
        prompt = await self._renderer.render(source, _template_variables(task, tokens))
        if len(prompt) <= INLINE_PROMPT_CHARS_MAX:
            return tuple(tokens.encode(prompt))
        return tuple(await asyncio.to_thread(tokens.encode, prompt))

    def _token_budget(self, task: ChatTask, prompt_tokens: int, context_length: int) -> int:
        """An explicit max_tokens must fit the context; a default takes the room that is left."""
        if context_length == 0:
            raise ModelNotReady(task.model)
        room = context_length - prompt_tokens
        if room < max(1, task.max_tokens or 0):
            raise PromptTooLong(prompt_tokens, context_length, task.max_tokens or 0)
        return task.max_tokens or min(self._defaults.max_tokens, room)

    async def _first_plan(self, plans: PlanStream, give_up_at: float) -> Queued | router_pb2.Plan:
        """A queue position, or the plan."""
        try:
            async with asyncio.timeout(give_up_at - self._clock.monotonic()):
                answer = await plans.next()
        except TimeoutError as err:
            raise DeadlineExceeded(
                f"no plan within {self._limits.plan_timeout_s:g} s; try again"
            ) from err
        if answer.WhichOneof("event") == "queued":
            return Queued(answer.queued.position)
        return answer.plan

    async def _attempt(
        self, prepared: Prepared, plan: router_pb2.Plan, reply: Reply
    ) -> AsyncGenerator[Event, None]:
        """One run through one pipeline. Ends after Finished, or raises."""
        if plan.pipeline.model_revision != prepared.revision:
            raise ModelReplaced(prepared.model)
        request = _generate_request(prepared, plan, reply)
        async with aclosing(self._stages.generate(_head(plan).locator, request)) as responses:
            cached_tokens = 0
            async for response in responses:
                kind = response.WhichOneof("event")
                if kind == "admitted":
                    cached_tokens = response.admitted.cached_token_count
                    yield Admitted()
                elif kind == "tokens":
                    _check_order(plan, response.tokens, reply)
                    if delta := reply.feed(response.tokens):
                        yield delta
                elif kind == "text":
                    raise StageFailed(_head(plan).node_id, "it speaks text, not token ids")
                if kind == "finished" or reply.is_stopped:
                    if delta := reply.flush():
                        yield delta
                    yield _finished(prepared, reply, response, cached_tokens)
                    return
        raise StageFailed(_head(plan).node_id, "the stream ended without a finish")

    async def _replan(
        self, plans: PlanStream, lost: router_pb2.Plan, error: ShoalError
    ) -> router_pb2.Plan:
        """Step 5. Returns the next plan, or raises `error` where there is none.

        The loss is reported even when no attempt is left: it keeps the stage out of others' plans.
        """
        head = _head(lost)
        if isinstance(error, Cancelled):
            error = StageFailed(head.node_id, "it gave the request up")
        if isinstance(error, InvalidRequest | Overloaded | ModelReplaced):
            raise error
        blamed = getattr(error, "node_id", "") or head.node_id
        stage = next((s for s in lost.pipeline.stages if s.node_id == blamed), head)
        log.warning("stage lost", extra={"node_id": stage.node_id, "reason": error.reason})
        report = router_pb2.StageLost(
            attempt=lost.attempt,
            node_id=stage.node_id,
            incarnation=stage.incarnation,
            reason=error.reason,
        )
        is_last = lost.attempt >= self._limits.attempts_max
        self._directory.forget()
        try:
            async with asyncio.timeout(self._limits.replan_timeout_s):
                await plans.report_lost(report)
                # Any answer shows that the report was read, which a cancelled call may not be.
                while (answer := await plans.next()).WhichOneof("event") != "plan" and not is_last:
                    continue
        except (TimeoutError, ShoalError) as err:
            raise error from err
        if is_last:
            raise error
        return answer.plan


def _template_variables(task: ChatTask, tokens: ModelTokens) -> dict[str, Any]:
    return {
        **tokens.special_tokens,
        "messages": [_template_message(message) for message in task.messages],
        "tools": list(task.tools) or None,
        "documents": None,
        "add_generation_prompt": True,
    }


def _template_message(message: Message) -> dict[str, Any]:
    """The shape that published templates read."""
    fields: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.name:
        fields["name"] = message.name
    return fields


def _head(plan: router_pb2.Plan) -> pipeline_pb2.PipelineStage:
    return plan.pipeline.stages[0]


def _plan_open(prepared: Prepared) -> router_pb2.PlanOpen:
    return router_pb2.PlanOpen(
        request_id=prepared.request_id,
        model=prepared.model,
        prompt_token_count=len(prepared.prompt_ids),
        max_tokens=prepared.max_tokens,
        session_id=prepared.task.session_id,
    )


def _generate_request(
    prepared: Prepared, plan: router_pb2.Plan, reply: Reply
) -> stage_pb2.GenerateRequest:
    return stage_pb2.GenerateRequest(
        request_id=prepared.request_id,
        pipeline=plan.pipeline,
        attempt=plan.attempt,
        token_ids=stage_pb2.TokenIds(ids=prepared.prompt_ids),
        generated=stage_pb2.TokenIds(ids=reply.ids),
        sampling=prepared.sampling,
        max_tokens=prepared.max_tokens,
        stop_token_ids=prepared.tokens.stop_token_ids,
        adapter_id=prepared.task.adapter_id,
        grammar=grammar_of(prepared.task),
    )


def _check_order(plan: router_pb2.Plan, delta: stage_pb2.TokensDelta, reply: Reply) -> None:
    if delta.first_position > len(reply.ids):
        raise StageFailed(
            _head(plan).node_id,
            f"position {delta.first_position} came after {len(reply.ids)} tokens",
        )


def _finished(
    prepared: Prepared, reply: Reply, last: stage_pb2.GenerateResponse, cached_tokens: int
) -> Finished:
    is_length = last.finished.reason == stage_pb2.FINISH_REASON_LENGTH
    reason: FinishReason = "length" if is_length and not reply.is_stopped else "stop"
    return Finished(reason, Usage(len(prepared.prompt_ids), len(reply.ids), cached_tokens))
