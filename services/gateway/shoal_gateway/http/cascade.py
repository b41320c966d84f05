"""The cascade over HTTP, for admins: how it is set up, what is kept, and ungated drafts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from shoal.drafter.v1 import drafter_pb2
from shoal_common.errors import InvalidRequest, ShoalError
from shoal_gateway import limits
from shoal_gateway.access.gate import DRAFT_PATH
from shoal_gateway.access.metering import TokenMeter
from shoal_gateway.dialects import openai_chat
from shoal_gateway.dialects.openai_render import call_object, usage_of
from shoal_gateway.drafter import Drafter
from shoal_gateway.errors import DrafterMissing
from shoal_gateway.http.body import read_object
from shoal_gateway.http.caller import CALLER, for_caller
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.trial_draft import TrialDraft, TrialDrafts

_KINDS = {
    drafter_pb2.DRAFTER_KIND_NONE: "none",
    drafter_pb2.DRAFTER_KIND_FLEET: "fleet",
    drafter_pb2.DRAFTER_KIND_UPSTREAM: "upstream",
}
_TENANT_CHARS_MAX = 256


@dataclass(frozen=True)
class CascadeFacts:
    """What this gateway's settings say of the cascade."""

    cascade_model: str
    heavyweight_model: str
    heavyweight_timeout_s: float
    stream_mode: str
    audit_share: float
    drafter_address: str


@dataclass(frozen=True)
class CascadeRoutes:
    """The handlers with what they need. Without a drafter only the facts are shown."""

    facts: CascadeFacts
    drafter: Drafter | None
    trials: TrialDrafts | None
    meter: TokenMeter

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/api/admin/cascade", self.show)
        app.router.add_delete("/api/admin/cache", self.forget)
        app.router.add_post(DRAFT_PATH, self.draft)

    async def show(self, request: web.Request) -> web.Response:
        """Answers 200 even when the drafter does not: `problem` says why."""
        facts = self.facts
        body: dict[str, Any] = {
            "object": "cascade",
            "cascade_model": facts.cascade_model,
            "heavyweight_model": facts.heavyweight_model,
            "heavyweight_timeout_s": facts.heavyweight_timeout_s,
            "stream_mode": facts.stream_mode,
            "audit_share": facts.audit_share,
            "drafter_address": facts.drafter_address,
            "drafter": None,
            "cache": None,
            "problem": None,
        }
        try:
            drafter = self._drafter()
            body["drafter"] = _drafter_object(await drafter.describe())
            body["cache"] = _cache_object(await drafter.cache())
        except ShoalError as err:
            body["problem"] = str(err)
        return web.json_response(body)

    async def forget(self, request: web.Request) -> web.Response:
        """Kept answers of a tenant, of a model, of both together, or all."""
        query = dict(request.query)
        for name in query.keys() - {"tenant", "model"}:
            # One that was mistyped would forget too much.
            raise InvalidRequest(f"unknown parameter '{name[:80]}'", param=name[:80])
        for name, value in query.items():
            if not value:
                raise InvalidRequest(
                    f"'{name}' is empty: leave it out to forget the answers of all", param=name
                )
            limits.check_length(value, name, 1, _TENANT_CHARS_MAX)
        wanted = drafter_pb2.ForgetRequest(request_id=request[REQUEST_ID], **query)
        count = await self._drafter().forget(wanted)
        return web.json_response({"object": "cache.forgotten", "forgotten_count": count})

    async def draft(self, request: web.Request) -> web.Response:
        """The whole draft of a chat completion's body, whatever a gate would think of it."""
        if self.trials is None:
            raise DrafterMissing
        chat = openai_chat.parse(await read_object(request))
        for param, is_asked in (("stream", chat.is_stream), ("n", chat.task.choice_count > 1)):
            if is_asked:
                raise InvalidRequest(f"'{param}' is not for drafts: leave it out", param=param)
        request_id = request[REQUEST_ID]
        trial = await self.trials.draft(request_id, for_caller(request, chat.task))
        self.meter.answered_by(request_id, trial.model)
        self.meter.count(request_id, request[CALLER].tenant, trial.said.finished.usage)
        return web.json_response(draft_object(trial))

    def _drafter(self) -> Drafter:
        if self.drafter is None:
            raise DrafterMissing
        return self.drafter


def draft_object(trial: TrialDraft) -> dict[str, Any]:
    finished = trial.said.finished
    return {
        "object": "cascade.draft",
        "model": trial.model,
        "text": trial.said.text,
        "tool_calls": [call_object(call) for call in trial.said.calls],
        "finish_reason": finished.reason,
        "tokens": [
            {
                "renormalised_bits": doubt.renormalised_bits,
                "lower_bits": doubt.lower_bits,
                "upper_bits": doubt.upper_bits,
                "margin": doubt.margin,
                "is_known": doubt.is_known,
            }
            for doubt in trial.doubts
        ],
        "usage": usage_of([finished.usage]),
    }


def _drafter_object(said: drafter_pb2.DescribeResponse) -> dict[str, Any]:
    return {
        "kind": _KINDS.get(said.kind, "unknown"),
        "model": said.model or None,
        "incarnation": said.incarnation,
        "timeout_s": said.timeout_ms / 1000,
        "threshold": _number(said.threshold),
        "window_size": said.window_size,
        "early_exit_count": said.early_exit_count,
        "candidate_count": said.candidate_count,
        "soft_threshold_mult": _number(said.soft_threshold_mult),
        "statistic": said.statistic,
        "estimate": said.estimate,
        "is_speculative": said.is_speculative,
        "has_cache": said.has_cache,
        "keeps_heavyweight": said.keeps_heavyweight,
        "embedding_model": said.embedding_model or None,
        "embedding_dimensions": said.embedding_dimensions,
        "embeds_itself": said.embeds_itself,
    }


def _cache_object(said: drafter_pb2.GetCacheResponse) -> dict[str, Any]:
    return {
        "is_enabled": said.is_enabled,
        "is_ready": said.is_ready,
        "entry_count": said.entry_count,
        "exact_hit_count": said.exact_hit_count,
        "semantic_hit_count": said.semantic_hit_count,
        "miss_count": said.miss_count,
        "guarded_count": said.guarded_count,
        "failure_count": said.failure_count,
        "ttl_s": said.ttl_s,
        "similarity_threshold": _number(said.similarity_threshold),
        "vector_store": said.vector_store or None,
        "collection": said.collection or None,
    }


def _number(value: float) -> float:
    """As people wrote it: the wire's float32 makes 0.800000012 of 0.8."""
    return round(value, 6)
