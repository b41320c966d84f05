"""What is known of one cascaded answer on its way, and what it says of itself at its end. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shoal.drafter.v1 import drafter_pb2
from shoal_gateway.cascade.draft import Doubts, Draft, FleetDraft, UpstreamDraft
from shoal_gateway.cascade.policy import Policy, stands_once_released
from shoal_gateway.local import drawn_anew
from shoal_gateway.path import route_of, times_of
from shoal_gateway.prompt import Prepared
from shoal_gateway.providers.estimate import prompt_tokens
from shoal_gateway.task import (
    Admitted,
    Answerer,
    ChatTask,
    Event,
    Finished,
    Provenance,
    ReasoningDelta,
    Route,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

_LAYERS = {
    drafter_pb2.CACHE_LAYER_EXACT: "exact",
    drafter_pb2.CACHE_LAYER_SEMANTIC: "semantic",
}


@dataclass(frozen=True)
class Drafted:
    """A request that is ready for the drafter. `prepared` is that of a fleet model's draft."""

    task: ChatTask
    request: drafter_pb2.AnswerRequest = field(repr=False)
    described: drafter_pb2.DescribeResponse
    policy: Policy
    prepared: Prepared | None = None

    def draft(self) -> Draft:
        """An empty one."""
        return UpstreamDraft() if self.prepared is None else FleetDraft(self.prepared)

    def again(self, request_id: str, seed: int | None) -> Drafted:
        """For another choice, which is neither taken from the cache nor kept in it."""
        request = drafter_pb2.AnswerRequest()
        request.CopyFrom(self.request)
        request.request_id = request_id
        request.cache_use = drafter_pb2.CACHE_USE_NONE
        request.task.sampling.seed = seed or 0
        prepared = self.prepared
        if prepared is not None:
            prepared = drawn_anew(prepared, draft_id(request_id), seed)
            request.fleet_draft.plan.request_id = prepared.request_id
            request.fleet_draft.generate.request_id = prepared.request_id
            request.fleet_draft.generate.sampling.CopyFrom(prepared.sampling)
        return replace(self, request=request, prepared=prepared)


def draft_id(request_id: str) -> str:
    """The draft and the heavyweight may run on one machine at once."""
    return f"{request_id}-d"


def heavy_id(request_id: str) -> str:
    return f"{request_id}-h"


@dataclass
class Course:
    """One answer from the first event to the last.

    given_up: why the draft has ended without standing, "" while it may. statistic: of the last
    verdict. is_late: a doubt came when the draft stood already. is_begun: something has left.
    said: text that has left; is_plain: nothing but text has. told: what a meter makes of the events
    that have left: a prompt, and a token for each piece. run_count: heavyweights begun.
    """

    drafted: Drafted
    draft: Draft
    doubts: Doubts
    begun: drafter_pb2.DraftBegun | None = None
    end: drafter_pb2.DraftEnd | None = None
    hit: drafter_pb2.CacheHit | None = None
    statistic: float | None = None
    given_up: str = ""
    is_speculating: bool = False
    is_accepted: bool = False
    is_late: bool = False
    is_begun: bool = False
    is_answered: bool = False
    is_plain: bool = True
    told: Usage = field(default_factory=lambda: Usage(0, 0))
    said: list[str] = field(default_factory=list)
    run_count: int = 0
    # Heavyweights that were cancelled.
    heavy_spent: Usage = field(default_factory=lambda: Usage(0, 0))

    @classmethod
    def of(cls, drafted: Drafted) -> Course:
        described = drafted.described
        doubts = Doubts(described.window_size, described.statistic)
        return cls(drafted, drafted.draft(), doubts)

    @property
    def stands(self) -> bool:
        """The draft is the answer, whatever the verdicts."""
        return self.draft.released > 0 and stands_once_released(self.drafted.policy)

    @property
    def is_sound(self) -> bool:
        """All that has left was judged and passed."""
        if self.is_late:
            return False
        return self.is_accepted or self.draft.settled_count >= self.draft.released

    @property
    def route(self) -> Route | None:
        """The draft's pipeline, where the fleet drafts."""
        if self.begun is None or not self.begun.HasField("plan"):
            return None
        return route_of(self.begun.plan, self.begun.admitted)

    def take(self, delta: drafter_pb2.DraftDelta) -> None:
        """Raises DraftBroken."""
        self.draft.take(delta)
        self.doubts.add(delta.entropy_bits)

    def left(self, event: Event) -> Event:
        """The same event, noted as it leaves for the client."""
        match event:
            case TextDelta():
                self.said.append(event.text)
                self._tell(completion_tokens=1)
            case ReasoningDelta() | ToolCallDelta():
                self.is_plain = False
                self._tell(completion_tokens=1)
            case ToolCallStarted():
                self.is_plain = False
            case Admitted():
                self.is_begun = True
                self._tell(prompt_tokens=event.prompt_tokens)
            case Finished():
                self.is_answered = True
        return event

    @property
    def unseen(self) -> Usage:
        """What both models have computed by now, beyond `told`."""
        spent = Usage(0, 0, by_model=self.by_model()).spent
        return Usage(
            prompt_tokens=max(0, spent.prompt_tokens - self.told.prompt_tokens),
            completion_tokens=max(0, spent.completion_tokens - self.told.completion_tokens),
        )

    def released(self) -> list[Event]:
        """What may leave now; with the end, where nothing more is wanted of the draft."""
        contents: list[Event] = list(
            self.draft.release(self.drafted.policy, self.is_speculating, self.is_accepted)
        )
        is_over = self.is_accepted or self.draft.is_over
        if is_over:
            contents += self.draft.flush()
        if (contents or is_over) and not self.is_begun:
            contents.insert(0, self._admitted())
        return [*contents, self._finished()] if is_over else contents

    def kept(self, hit: drafter_pb2.CacheHit) -> list[Event]:
        """A kept answer in whole. It is told with the tokens it took once; none were computed."""
        provenance = Provenance(
            "cache",
            cache_layer=_LAYERS.get(hit.layer, "exact"),
            similarity=hit.similarity,
            age_s=hit.age_s,
        )
        usage = Usage(
            hit.prompt_token_count,
            hit.completion_token_count,
            cached_tokens=hit.prompt_token_count,
            by_model={},
        )
        admitted = Admitted(usage.prompt_tokens, usage.cached_tokens, provenance=provenance)
        return [admitted, TextDelta(hit.text), Finished("stop", usage, provenance=provenance)]

    def provenance(self, by: Answerer) -> Provenance:
        entropy = self.statistic if self.statistic is not None else self.doubts.value
        escalation = self.given_up if "heavyweight" in by else ""
        return Provenance(by, entropy, escalation)

    def by_model(self, heavy: Usage | None = None) -> Mapping[str, Usage]:
        """What each model has computed by now. heavy: of the heavyweight that took over."""
        parts = {}
        if self.begun is not None or self.draft.token_count:
            parts["drafter"] = Usage(self.prompt_tokens, self.draft.token_count)
        prompt = self.heavy_spent.prompt_tokens + (heavy.prompt_tokens if heavy else 0)
        completion = self.heavy_spent.completion_tokens + (heavy.completion_tokens if heavy else 0)
        if heavy is not None or prompt or completion:
            parts["heavyweight"] = Usage(prompt, completion)
        return parts

    @property
    def prompt_tokens(self) -> int:
        """Of the draft's prompt; guessed while an upstream has not said."""
        if self.drafted.prepared is not None:
            return len(self.drafted.prepared.prompt_ids)
        if self.end is not None and self.end.prompt_token_count:
            return self.end.prompt_token_count
        return prompt_tokens(self.drafted.task)

    def _tell(self, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        self.told = Usage(
            prompt_tokens=self.told.prompt_tokens + prompt_tokens,
            completion_tokens=self.told.completion_tokens + completion_tokens,
        )

    def _admitted(self) -> Admitted:
        cached = self.begun.admitted.cached_token_count if self.begun is not None else 0
        return Admitted(self.prompt_tokens, cached, self.route, self.provenance("drafter"))

    def _finished(self) -> Finished:
        admitted = self._admitted()
        usage = Usage(
            prompt_tokens=admitted.prompt_tokens,
            completion_tokens=self.draft.visible_count(self.end),
            cached_tokens=admitted.cached_tokens,
            reasoning_tokens=self.draft.reasoning_token_count,
            by_model=self.by_model(),
        )
        return Finished(
            self.draft.reason(self.end),
            usage,
            self.draft.stop_string,
            admitted.route,
            times_of(self.end.timings) if self.end is not None else (),
            admitted.provenance,
        )
