"""The cascade as a backend: whether a request is worth a draft, and the draft made ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from functools import partial
from typing import Literal

from shoal.drafter.v1 import drafter_pb2
from shoal_common.errors import InvalidRequest, PromptTooLong, ShoalError, UnknownModel
from shoal_gateway.answers import Answer, Answers, Backend
from shoal_gateway.cascade.answer import CascadeAnswer, CascadeParts
from shoal_gateway.cascade.course import Drafted, draft_id, heavy_id
from shoal_gateway.cascade.eligibility import cache_use_of, why_no_draft
from shoal_gateway.cascade.heavy import Standby
from shoal_gateway.cascade.policy import (
    HoldFirst,
    Policy,
    hold_all,
    settled_only,
    stands_once_released,
)
from shoal_gateway.cascade.wire import fleet_draft_of, task_of
from shoal_gateway.local import LocalBackend
from shoal_gateway.prompt import Prepared
from shoal_gateway.sampling import resolve
from shoal_gateway.task import ChatTask


@dataclass(frozen=True)
class CascadeRules:
    """What the operator decided. `is_default`: the cascade answers for "" too. plan_wait_s: how
    long a draft may wait for a plan. host_id: of this machine."""

    model: str
    heavyweight_model: str
    stream_mode: Literal["hold", "continue"]
    is_drafter_here: bool
    is_default: bool
    plan_wait_s: float
    host_id: str


class Heavyweights:
    """Whoever answers for the heavyweight: all backends but the cascade itself."""

    def __init__(self, model: str, backends: Sequence[Backend]) -> None:
        """The last backend is the one that refuses in the end."""
        self._model = model
        self._backends = tuple(backends)
        self._answers = Answers(backends)

    async def open(self, request_id: str, task: ChatTask) -> Answer:
        """Raises as any backend does."""
        return await self._answers.open(request_id, self._task(task))

    async def count_tokens(self, task: ChatTask) -> int:
        return await self._answers.count_tokens(self._task(task))

    async def require_images(self, task: ChatTask) -> None:
        for backend in self._backends[:-1]:
            if await backend.serves(self._model):
                return await backend.require_images(self._task(task))
        await self._backends[-1].require_images(self._task(task))

    async def is_served(self) -> bool:
        """Somebody answers for it now."""
        for backend in self._backends[:-1]:
            if await backend.serves(self._model):
                return True
        return False

    def _task(self, task: ChatTask) -> ChatTask:
        return replaced(task, model=self._model)


class CascadeBackend:
    """Answers for one name: the cascade's."""

    def __init__(
        self,
        rules: CascadeRules,
        parts: CascadeParts,
        heavyweights: Heavyweights,
        local: LocalBackend,
    ) -> None:
        """`local` knows the fleet's models, of which the drafter's is one."""
        self._rules = rules
        self._parts = parts
        self._heavyweights = heavyweights
        self._directory = local.directory
        self._prompts = local.prompts
        self._defaults = local.prompts.defaults
        self._waking: set[str] = set()

    @property
    def model(self) -> str:
        return self._rules.model

    async def serves(self, model: str) -> bool:
        return model == self._rules.model or (not model and self._rules.is_default)

    async def is_usable(self) -> bool:
        """Its heavyweight is there; without a drafter that answers alone."""
        return await self._heavyweights.is_served()

    async def open(self, request_id: str, task: ChatTask) -> CascadeAnswer:
        task = replaced(task, model=self._rules.model)
        described = await self._parts.watch.described()
        standby = await Standby.opened(
            self._rules.heavyweight_model,
            partial(self._heavyweights.open, heavy_id(request_id), task),
        )
        drafted, why_not = await self._drafted(request_id, task, described, standby)
        return CascadeAnswer(
            request_id, self._rules.model, task, standby, self._parts, drafted, why_not
        )

    async def count_tokens(self, task: ChatTask) -> int:
        """By the heavyweight, which reads every prompt that the drafter may not."""
        return await self._heavyweights.count_tokens(task)

    async def require_images(self, task: ChatTask) -> None:
        await self._heavyweights.require_images(task)

    async def _drafted(
        self,
        request_id: str,
        task: ChatTask,
        described: drafter_pb2.DescribeResponse | None,
        standby: Standby,
    ) -> tuple[Drafted | None, str]:
        """The draft made ready, or why there is none."""
        if described is None:
            return None, "unreachable"
        if described.kind not in (
            drafter_pb2.DRAFTER_KIND_FLEET,
            drafter_pb2.DRAFTER_KIND_UPSTREAM,
        ):
            return None, "no_drafter"
        # Found out before the drafter would be, and told in the log once.
        if described.timeout_ms >= self._parts.heavyweight_timeout_s * 1000:
            return None, "timeout_order"
        if why := why_no_draft(task, described.kind, self._rules.is_drafter_here):
            return None, why
        if described.kind == drafter_pb2.DRAFTER_KIND_UPSTREAM:
            return self._upstream_draft(request_id, task, described), ""
        return await self._fleet_draft(request_id, task, described, standby)

    def _upstream_draft(
        self, request_id: str, task: ChatTask, described: drafter_pb2.DescribeResponse
    ) -> Drafted:
        """Nobody can go on behind a text that has left: it stands, or nothing of it leaves."""
        policy: Policy = hold_all
        if task.is_streamed and self._rules.stream_mode == "hold":
            policy = HoldFirst(described.early_exit_count)
        sampling = resolve(task, self._defaults, {})
        max_tokens = task.max_tokens or self._defaults.max_tokens
        request = drafter_pb2.AnswerRequest(
            request_id=request_id,
            task=task_of(task, sampling, max_tokens),
            cache_use=cache_use_of(task),
            stands_when_passed=stands_once_released(policy),
        )
        return Drafted(task, request, described, policy)

    async def _fleet_draft(
        self,
        request_id: str,
        task: ChatTask,
        described: drafter_pb2.DescribeResponse,
        standby: Standby,
    ) -> tuple[Drafted | None, str]:
        try:
            # By what is known of the fleet: a router that is away must not hold the request up.
            state = await self._directory.find(described.model)
            if not state.is_ready:
                if state.is_loadable:
                    self._wake(state.model)
                return None, "not_ready"
            prepared = await self._prompts.prepare(
                draft_id(request_id), replaced(task, model=described.model)
            )
        except PromptTooLong:
            return None, "prompt_too_long"
        except InvalidRequest as err:
            return None, "not_ready" if isinstance(err, UnknownModel) else "refused"
        except ShoalError:
            return None, "not_ready"
        policy = self._policy(task, described, prepared, standby)
        # What was asked for, not what the context has room for: that differs from prompt to prompt,
        # and would keep equal questions apart.
        max_tokens = task.max_tokens or self._defaults.max_tokens
        request = drafter_pb2.AnswerRequest(
            request_id=request_id,
            task=task_of(task, prepared.sampling, max_tokens),
            fleet_draft=fleet_draft_of(prepared, self._rules.host_id, self._rules.plan_wait_s),
            cache_use=cache_use_of(task),
            stands_when_passed=stands_once_released(policy),
        )
        return Drafted(task, request, described, policy, prepared), ""

    def _wake(self, model: str) -> None:
        """Have the drafter's model loaded for those who come later; once at a time."""
        if model not in self._waking:
            self._waking.add(model)
            if not self._parts.background.add("wake drafter", self._woken(model)):
                self._waking.discard(model)

    async def _woken(self, model: str) -> None:
        try:
            await self._parts.completer.wake(model, self._rules.plan_wait_s)
        finally:
            self._waking.discard(model)

    def _policy(
        self,
        task: ChatTask,
        described: drafter_pb2.DescribeResponse,
        prepared: Prepared,
        standby: Standby,
    ) -> Policy:
        """What may leave early: nothing where nobody reads it early, or could go on behind it."""
        if not task.is_streamed:
            return hold_all
        if self._rules.stream_mode == "hold":
            return HoldFirst(described.early_exit_count)
        local = standby.local
        if local is not None and goes_on_behind(local.prepared, prepared):
            return settled_only
        return hold_all


def goes_on_behind(heavy: Prepared, draft: Prepared) -> bool:
    """Ids of the draft mean the same to the heavyweight, and so does what it reads into them."""
    has_same_tokens = heavy.tokens.tokenizer_digest == draft.tokens.tokenizer_digest
    return has_same_tokens and heavy.reading == draft.reading
