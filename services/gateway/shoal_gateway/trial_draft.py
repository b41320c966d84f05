"""Ungated drafts: the whole of what the drafter says, each token with its doubt.

For measuring a threshold. Owns how such a draft is asked for and read; does not know HTTP, nor
which tokens a gate would have let pass.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field, replace

from shoal.drafter.v1 import drafter_pb2
from shoal.worker.v1 import stage_pb2
from shoal_gateway.cascade.errors import DraftBroken
from shoal_gateway.cascade.wire import fleet_draft_of, task_of
from shoal_gateway.collect import Collected
from shoal_gateway.completion import reply_to
from shoal_gateway.drafter import Drafter
from shoal_gateway.errors import DrafterMissing
from shoal_gateway.local import LocalBackend
from shoal_gateway.privacy import require_open
from shoal_gateway.reply import Reply
from shoal_gateway.sampling import SamplingDefaults, resolve
from shoal_gateway.task import ChatTask, Finished, FinishReason, TextDelta, Usage

_REASONS: dict[stage_pb2.FinishReason, FinishReason] = {
    stage_pb2.FINISH_REASON_LENGTH: "length",
}


@dataclass
class TrialDraft:
    """`doubts` are in the order of the tokens."""

    model: str
    said: Collected = field(default_factory=Collected)
    doubts: list[drafter_pb2.TokenDoubt] = field(default_factory=list)


@dataclass(frozen=True)
class TrialDrafts:
    """Asks the drafter. host_id: of this machine. wait_s: how long a draft waits for its plan."""

    drafter: Drafter
    local: LocalBackend
    defaults: SamplingDefaults
    host_id: str
    wait_s: float

    async def draft(self, request_id: str, task: ChatTask) -> TrialDraft:
        """The drafter's whole answer to the task, whichever model that names.

        Raises DrafterMissing, InvalidRequest, and what the drafter raises.
        """
        described = await self.drafter.describe()
        task = replace(task, model=described.model, logprobs=False)
        request = drafter_pb2.AnswerRequest(
            request_id=request_id, cache_use=drafter_pb2.CACHE_USE_NONE, is_ungated=True
        )
        reply: Reply | None = None
        if described.kind == drafter_pb2.DRAFTER_KIND_FLEET:
            prepared = (await self.local.open(request_id, task)).prepared
            reply = reply_to(prepared)
            request.task.CopyFrom(task_of(task, prepared.sampling, prepared.max_tokens))
            request.fleet_draft.CopyFrom(fleet_draft_of(prepared, self.host_id, self.wait_s))
        elif described.kind == drafter_pb2.DRAFTER_KIND_UPSTREAM:
            require_open(task.privacy, described.model)
            sampling = resolve(task, self.defaults, {})
            max_tokens = task.max_tokens or self.defaults.max_tokens
            request.task.CopyFrom(task_of(task, sampling, max_tokens))
        else:
            raise DrafterMissing
        return await self._read(request, reply, TrialDraft(described.model))

    async def _read(
        self, request: drafter_pb2.AnswerRequest, reply: Reply | None, trial: TrialDraft
    ) -> TrialDraft:
        """reply: reads the ids of a fleet's draft; None where an upstream's text comes."""
        end: drafter_pb2.DraftEnd | None = None
        async with aclosing(self.drafter.answer(request)) as events:
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "draft":
                    _take(trial, reply, event.draft)
                if kind == "end":
                    end = event.end
                if end is not None or (reply is not None and reply.is_stopped):
                    break
        if end is None and (reply is None or not reply.is_stopped):
            raise DraftBroken("it ended without a last word")
        for content in reply.flush() if reply is not None else []:
            trial.said.add(content)
        trial.said.add(_finished(request, reply, trial, end))
        return trial


def _take(trial: TrialDraft, reply: Reply | None, delta: drafter_pb2.DraftDelta) -> None:
    known = len(trial.doubts)
    if delta.first_position > known:
        raise DraftBroken(f"position {delta.first_position} came after {known} tokens")
    trial.doubts[delta.first_position :] = delta.doubts
    if reply is None:
        trial.said.add(TextDelta(delta.text))
        return
    tokens = stage_pb2.TokensDelta(first_position=delta.first_position, tokens=delta.tokens)
    for content in reply.feed(tokens):
        trial.said.add(content)


def _finished(
    request: drafter_pb2.AnswerRequest,
    reply: Reply | None,
    trial: TrialDraft,
    end: drafter_pb2.DraftEnd | None,
) -> Finished:
    """Where a stop string ended the text, the drafter has told no usage."""
    end = end or drafter_pb2.DraftEnd(
        prompt_token_count=len(request.fleet_draft.generate.token_ids.ids),
        completion_token_count=len(trial.doubts),
    )
    reason = _REASONS.get(end.reason, "stop")
    if reply is not None and reply.is_stopped:
        reason = "stop"
    if reason == "stop" and trial.said.calls:
        reason = "tool_calls"
    usage = Usage(end.prompt_token_count, end.completion_token_count, end.cached_token_count)
    return Finished(reason, usage)
