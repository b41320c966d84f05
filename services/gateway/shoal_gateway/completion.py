"""The life of one request, from ChatTask to its last event.

1. Prepare (`Prompts`): find the model, render its template, tokenise, decide sampling and budget.
2. Plan: hold a plan open at the router for as long as the generation lives.
3. Generate: the head of the plan's pipeline streams token ids.
4. Text: ids become whole characters, up to the first stop string, and these become reasoning,
   text and tool calls.
5. Lost stage: say so, wait briefly for another plan, go on behind the ids already delivered; a
   reply that lacks nothing but the word that it is finished, is.
6. Finish: reason and usage; leaving releases the plan and frees the sequence on every stage.

Owns the request; does not know HTTP, nor how a layer is computed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2, stage_pb2
from shoal_common.clock import Clock
from shoal_common.driving import PrivacyUnproven, Router, Stages, check_proof
from shoal_common.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidGrammar,
    InvalidRequest,
    Overloaded,
    ShoalError,
    StageFailed,
)
from shoal_common.ids import new_request_id
from shoal_gateway.errors import ModelReplaced
from shoal_gateway.held_plan import HeldPlan, Patience
from shoal_gateway.models import ModelDirectory
from shoal_gateway.opening import plan_open
from shoal_gateway.path import route_of, times_of
from shoal_gateway.prompt import Prepared
from shoal_gateway.reply import Reply
from shoal_gateway.task import (
    Admitted,
    ChatTask,
    Event,
    Finished,
    FinishReason,
    Queued,
    Route,
    StageTime,
    Usage,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompletionLimits:
    """How long and how often a request may wait.

    router_wait_s: for a router that cannot be reached. replan_timeout_s: for a word of it, when a
    stage was lost. attempts_max: pipelines tried one after the other, without any of them adding a
    token.
    """

    plan_timeout_s: float = 600.0
    router_wait_s: float = 3.0
    replan_timeout_s: float = 5.0
    attempts_max: int = 3


@dataclass
class _Course:
    """What of a request outlives its pipelines.

    cached_tokens: of the prompt, as the first pipeline said; None before. vain_count: pipelines
    lost one after the other that added no token. attempt, route, times: of the last pipeline.
    """

    reply: Reply
    cached_tokens: int | None = None
    vain_count: int = 0
    attempt: int = 0
    route: Route | None = None
    times: tuple[StageTime, ...] = ()


class Completer:
    """Serves any number of requests at once; keeps nothing of them."""

    def __init__(
        self,
        router: Router,
        stages: Stages,
        directory: ModelDirectory,
        limits: CompletionLimits,
        clock: Clock,
        host_id: str = "",
    ) -> None:
        """host_id: of this machine; "" where nothing counts as local to it."""
        self._host_id = host_id
        self._router = router
        self._stages = stages
        self._directory = directory
        self._limits = limits
        self._clock = clock
        self._patience = Patience(
            limits.router_wait_s, limits.replan_timeout_s, limits.plan_timeout_s
        )

    async def run(
        self, prepared: Prepared, reply: Reply | None = None
    ) -> AsyncGenerator[Event, None]:
        """Steps 2 to 6. Close the iterator to give up: that frees everything at once.

        `reply` holds what of the answer there is already; only what comes behind it is told, and
        the usage counts all of it.
        """
        task = prepared.task
        reply = reply or reply_to(prepared)
        course = _Course(reply)
        if (is_length := _whole_by_length(prepared, reply)) is not None:
            for event in _ending(prepared, course, is_length):
                yield event
            return
        opening = plan_open(prepared, self._host_id, self._limits.plan_timeout_s)
        async with HeldPlan(self._router, opening, self._clock, self._patience) as plans:
            give_up_at = self._clock.monotonic() + self._limits.plan_timeout_s
            while isinstance(plan := await self._first_plan(plans, give_up_at), Queued):
                yield plan
            while True:
                known_count = len(reply.ids)
                try:
                    async with aclosing(self._attempt(prepared, plan, course)) as events:
                        async for event in events:
                            yield event
                    return
                except InvalidGrammar as err:
                    err.param = _grammar_param(task)
                    raise
                except ShoalError as err:
                    error = _judged(err, plan)
                course.vain_count = 1 if len(reply.ids) > known_count else course.vain_count + 1
                if (is_length := _whole_by_length(prepared, reply)) is not None:
                    for event in _ending(prepared, course, is_length):
                        yield event
                    return
                plan = await self._replan(plans, plan, error, course)

    async def wake(self, model: str, wait_s: float) -> None:
        """Have a model loaded that nobody holds: ask for a plan, and give it back when it comes.

        Raises what the router answers instead, DeadlineExceeded when that takes longer.
        """
        opening = router_pb2.PlanOpen(
            request_id=new_request_id(),
            model=model,
            prompt_token_count=1,
            max_tokens=1,
            remaining_ms=round(wait_s * 1000),
        )
        async with HeldPlan(self._router, opening, self._clock, self._patience) as plans:
            give_up_at = self._clock.monotonic() + wait_s
            while isinstance(await self._first_plan(plans, give_up_at), Queued):
                continue

    async def _first_plan(self, plans: HeldPlan, give_up_at: float) -> Queued | router_pb2.Plan:
        """A queue position, or the plan."""
        try:
            async with asyncio.timeout(give_up_at - self._clock.monotonic()):
                answer = await plans.first()
        except TimeoutError as err:
            raise DeadlineExceeded(
                f"no plan within {self._limits.plan_timeout_s:g} s; try again"
            ) from err
        if answer.WhichOneof("event") == "queued":
            return Queued(answer.queued.position)
        return answer.plan

    async def _attempt(
        self, prepared: Prepared, plan: router_pb2.Plan, course: _Course
    ) -> AsyncGenerator[Event, None]:
        """One run through one pipeline. Ends after Finished, or raises."""
        if plan.pipeline.model_revision != prepared.revision:
            raise ModelReplaced(prepared.model)
        check_proof(prepared.task.privacy, plan.pipeline, self._host_id)
        reply = course.reply
        course.attempt += 1
        request = _generate_request(prepared, plan, course)
        async with aclosing(self._stages.generate(_head(plan).locator, request)) as responses:
            async for response in responses:
                kind = response.WhichOneof("event")
                if kind == "admitted":
                    course.route = route_of(plan, response.admitted)
                if kind == "admitted" and course.cached_tokens is None:
                    course.cached_tokens = response.admitted.cached_token_count
                    yield Admitted(len(prepared.prompt_ids), course.cached_tokens, course.route)
                elif kind == "tokens":
                    _check_order(plan, response.tokens, reply)
                    for content in reply.feed(response.tokens):
                        yield content
                elif kind == "text":
                    raise StageFailed(_head(plan).node_id, "it speaks text, not token ids")
                if kind == "finished" or reply.is_stopped:
                    course.times = times_of(response.finished.timings)
                    is_length = response.finished.reason == stage_pb2.FINISH_REASON_LENGTH
                    for event in _ending(prepared, course, is_length):
                        yield event
                    return
        raise StageFailed(_head(plan).node_id, "the stream ended without a finish")

    async def _replan(
        self, plans: HeldPlan, lost: router_pb2.Plan, error: ShoalError, course: _Course
    ) -> router_pb2.Plan:
        """Step 5. Returns the next plan, or raises `error` where there is none.

        The loss is reported even when no attempt is left: it keeps the stage out of others' plans.
        """
        stage = _blamed(lost, error)
        log.warning("stage lost", extra={"node_id": stage.node_id, "reason": error.reason})
        self._directory.forget()
        try:
            if course.vain_count < self._limits.attempts_max:
                return await plans.another(lost, stage, error.reason)
            await plans.give_up(lost, stage, error.reason)
        except (TimeoutError, ShoalError) as err:
            raise error from err
        raise error


def reply_to(prepared: Prepared) -> Reply:
    """An empty one, read as the request wants it."""
    task = prepared.task
    return Reply(prepared.tokens, task.stop, task.logprobs, prepared.reading)


def _judged(error: ShoalError, plan: router_pb2.Plan) -> ShoalError:
    """The error for which another plan may be asked; raises one that no plan would change."""
    if isinstance(error, Cancelled):
        return StageFailed(_head(plan).node_id, "it gave the request up")
    if isinstance(error, InvalidRequest | Overloaded | ModelReplaced | DeadlineExceeded):
        raise error
    if isinstance(error, PrivacyUnproven):
        raise error
    return error


def _blamed(plan: router_pb2.Plan, error: ShoalError) -> pipeline_pb2.PipelineStage:
    """The stage that the error names, else the one that was asked."""
    node_id = getattr(error, "node_id", "")
    return next((s for s in plan.pipeline.stages if s.node_id == node_id), _head(plan))


def _grammar_param(task: ChatTask) -> str | None:
    """The field that asked for what the engine refuses."""
    if task.tool_choice.mode in ("required", "named"):
        return "tools"
    return task.reply_format.param if task.reply_format is not None else None


def _head(plan: router_pb2.Plan) -> pipeline_pb2.PipelineStage:
    return plan.pipeline.stages[0]


def _generate_request(
    prepared: Prepared, plan: router_pb2.Plan, course: _Course
) -> stage_pb2.GenerateRequest:
    return stage_pb2.GenerateRequest(
        request_id=prepared.request_id,
        pipeline=plan.pipeline,
        attempt=course.attempt,
        token_ids=stage_pb2.TokenIds(ids=prepared.prompt_ids),
        generated=stage_pb2.TokenIds(ids=course.reply.ids),
        sampling=prepared.sampling,
        max_tokens=prepared.max_tokens,
        stop_token_ids=prepared.tokens.stop_token_ids,
        adapter_id=prepared.task.adapter_id,
        grammar=prepared.grammar,
        tenant=prepared.task.tenant,
    )


def _check_order(plan: router_pb2.Plan, delta: stage_pb2.TokensDelta, reply: Reply) -> None:
    if delta.first_position > len(reply.ids):
        raise StageFailed(
            _head(plan).node_id,
            f"position {delta.first_position} came after {len(reply.ids)} tokens",
        )


def _whole_by_length(prepared: Prepared, reply: Reply) -> bool | None:
    """None while tokens are missing; else whether the limit has ended the reply, not the model."""
    if reply.ids and reply.ids[-1] in prepared.tokens.stop_token_ids:
        return False
    return True if len(reply.ids) >= prepared.max_tokens else None


def _ending(prepared: Prepared, course: _Course, is_length: bool) -> list[Event]:
    """What was held back, and the end."""
    reply = course.reply
    rest = reply.flush()
    reason: FinishReason = "length" if is_length and not reply.is_stopped else "stop"
    if reply.has_calls and reason == "stop":
        reason = "tool_calls"
    usage = Usage(
        prompt_tokens=len(prepared.prompt_ids),
        completion_tokens=len(reply.ids),
        cached_tokens=course.cached_tokens or 0,
        reasoning_tokens=reply.reasoning_token_count,
    )
    return [*rest, Finished(reason, usage, reply.stop_string, course.route, course.times)]
