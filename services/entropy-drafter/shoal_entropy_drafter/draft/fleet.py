"""Drafts by a model of the fleet: token ids in, token ids and candidates out.

Owns one plan and one call of the head per draft. Does not know text, nor which tokens may leave. A
draft that loses a stage is not planned again: the heavyweight answers sooner.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from shoal.drafter.v1 import drafter_pb2
from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2, stage_pb2
from shoal_common.driving import (
    PlanStream,
    Privacy,
    PrivacyUnproven,
    Router,
    Stages,
    check_proof,
)
from shoal_common.errors import InvalidRequest, ShoalError
from shoal_entropy_drafter.draft.base import (
    DraftBegun,
    DraftEnded,
    DraftEvent,
    DraftToken,
    DraftTokens,
)
from shoal_entropy_drafter.entropy import entropy_of
from shoal_entropy_drafter.errors import DraftFailed

_ATTEMPT = 1


class FleetDrafts:
    """A `DraftSource` over router and heads, which stay open."""

    kind = drafter_pb2.DRAFTER_KIND_FLEET

    def __init__(
        self, model: str, router: Router, stages: Stages, candidate_count: int, host_id: str
    ) -> None:
        """host_id: of this machine; "" where nothing counts as local to it."""
        self._model = model
        self._router = router
        self._stages = stages
        self._candidate_count = candidate_count
        self._host_id = host_id

    def check(self, request: drafter_pb2.AnswerRequest) -> None:
        """See `DraftSource.check`."""
        if not request.HasField("fleet_draft"):
            raise InvalidRequest(
                f"drafts are written by '{self._model}', a model of the fleet: send fleet_draft",
                param="fleet_draft",
            )
        fleet = request.fleet_draft
        if fleet.plan.model != self._model:
            raise InvalidRequest(
                f"drafts are written by '{self._model}', not by '{fleet.plan.model}': give gateway "
                f"and entropy-drafter one drafter_model",
                param="fleet_draft",
            )
        if not fleet.generate.token_ids.ids:
            raise InvalidRequest("fleet_draft has no prompt ids", param="fleet_draft")
        if fleet.vocabulary_size == 1:
            raise InvalidRequest("a vocabulary of one token drafts nothing", param="fleet_draft")

    async def draft(
        self, request: drafter_pb2.AnswerRequest, remaining_s: float
    ) -> AsyncGenerator[DraftEvent, None]:
        """See `DraftSource.draft`."""
        remaining_ms = max(1, int(remaining_s * 1000))
        try:
            async with aclosing(self._run(request.fleet_draft, remaining_ms)) as events:
                async for event in events:
                    yield event
        except ShoalError as err:
            if isinstance(err, DraftFailed):
                raise
            raise DraftFailed(f"the fleet said {err.reason}") from err

    async def close(self) -> None:
        """Router and heads belong to whoever made them."""

    async def _run(
        self, fleet: drafter_pb2.FleetDraft, remaining_ms: int
    ) -> AsyncGenerator[DraftEvent, None]:
        opening = router_pb2.PlanOpen()
        opening.CopyFrom(fleet.plan)
        opening.driver_host_id = self._host_id
        opening.remaining_ms = remaining_ms
        async with self._router.open_plan(opening) as stream:
            plan = await _planned(stream)
            self._check_plan(plan, fleet)
            generate = self._generate(plan, fleet, remaining_ms)
            reading = _Reading(plan, fleet, self._candidate_count)
            locator = plan.pipeline.stages[0].locator
            async with aclosing(self._stages.generate(locator, generate)) as responses:
                async for response in responses:
                    event = reading.take(response)
                    if event is not None:
                        yield event
                    if isinstance(event, DraftEnded):
                        return
        raise DraftFailed("its stream ended without a finish")

    def _check_plan(self, plan: router_pb2.Plan, fleet: drafter_pb2.FleetDraft) -> None:
        """Raises DraftFailed or PrivacyUnproven before anything of the prompt has left."""
        pipeline = plan.pipeline
        # Ids are those of one vocabulary: another model's would be nonsense, or another prompt.
        wanted_revision = fleet.generate.pipeline.model_revision
        if pipeline.model != self._model or not pipeline.stages:
            raise DraftFailed("the plan is of another model")
        if wanted_revision and pipeline.model_revision != wanted_revision:
            raise DraftFailed("the model was replaced since the prompt was tokenised")
        privacy = Privacy.of_wire(fleet.plan.privacy, fleet.plan.wants_boomerang)
        is_far = fleet.plan.driver_host_id not in ("", self._host_id)
        if is_far and (privacy.label == "local" or privacy.is_boomerang):
            raise PrivacyUnproven("gateway and entropy-drafter run on two machines")
        check_proof(privacy, pipeline, self._host_id)

    def _generate(
        self, plan: router_pb2.Plan, fleet: drafter_pb2.FleetDraft, remaining_ms: int
    ) -> stage_pb2.GenerateRequest:
        request = stage_pb2.GenerateRequest()
        request.CopyFrom(fleet.generate)
        pipeline: pipeline_pb2.Pipeline = plan.pipeline
        request.pipeline.CopyFrom(pipeline)
        request.attempt = _ATTEMPT
        request.remaining_ms = remaining_ms
        request.sampling.logprobs = True
        asked_count = fleet.generate.sampling.logprob_count
        request.sampling.logprob_count = max(asked_count, self._candidate_count)
        return request


class _Reading:
    """One head's responses as events; each position once and in order.

    Tokens come out with the candidates that the caller has asked for, the likeliest; the others
    were the gate's alone.
    """

    def __init__(
        self, plan: router_pb2.Plan, fleet: drafter_pb2.FleetDraft, candidate_count: int
    ) -> None:
        self._plan = plan
        self._candidate_count = candidate_count
        self._vocabulary_size = fleet.vocabulary_size
        asked = fleet.generate.sampling
        self._wants_logprobs = asked.logprobs
        self._shown_count = asked.logprob_count if asked.logprobs else 0
        self._token_count = 0

    def take(self, response: stage_pb2.GenerateResponse) -> DraftEvent | None:
        """The event of a response, None where it says nothing new. Raises DraftFailed."""
        kind = response.WhichOneof("event")
        if kind == "admitted":
            return DraftBegun(self._plan, response.admitted)
        if kind == "tokens":
            return self._tokens(response.tokens)
        if kind == "text":
            raise DraftFailed("the head speaks text, not token ids")
        if kind == "finished":
            done = response.finished
            return DraftEnded(
                done.reason,
                done.prompt_token_count,
                max(done.generated_token_count, self._token_count),
                done.cached_token_count,
                tuple(done.timings),
            )
        return None

    def _tokens(self, delta: stage_pb2.TokensDelta) -> DraftTokens | None:
        known_count = self._token_count - delta.first_position
        if known_count < 0:
            raise DraftFailed(
                f"position {delta.first_position} came after {self._token_count} tokens"
            )
        tokens = [self._token(token) for token in delta.tokens[known_count:]]
        self._token_count += len(tokens)
        return DraftTokens(tokens) if tokens else None

    def _token(self, token: stage_pb2.GeneratedToken) -> DraftToken:
        logprobs = [candidate.logprob for candidate in token.top]
        entropy = entropy_of(logprobs, self._candidate_count, self._vocabulary_size)
        del token.top[self._shown_count :]
        if not self._wants_logprobs:
            token.ClearField("logprob")
        return DraftToken("", token, entropy)


async def _planned(stream: PlanStream) -> router_pb2.Plan:
    """The first plan; places in the queue are passed over."""
    while True:
        answer = await stream.next()
        if answer.WhichOneof("event") == "plan":
            return answer.plan
