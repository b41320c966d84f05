"""One request's hold on a pipeline, for as long as the request lives.

Owns the plan stream, which stages were lost, and asking anew where the router itself was lost.
Does not know tokens, nor whether another attempt is worth while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_common.clock import Clock
from shoal_common.driving import PeerUnreachable, PlanStream, Router
from shoal_common.errors import Unavailable, UnknownModel

log = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.1


@dataclass(frozen=True)
class Patience:
    """Seconds that a request waits for the router.

    opening_s: for one that cannot be reached when a first plan is asked for. silence_s: for another
    plan, or a word that it is on its way. queue_s: for another plan, whatever is said.
    """

    opening_s: float
    silence_s: float
    queue_s: float


class HeldPlan:
    """Leaving the context releases the pipeline, however it is left."""

    def __init__(
        self, router: Router, opening: router_pb2.PlanOpen, clock: Clock, patience: Patience
    ) -> None:
        self._router = router
        self._opening = opening
        self._clock = clock
        self._patience = patience
        self._lost: set[str] = set()
        self._stream: PlanStream | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def first(self) -> router_pb2.PlanResponse:
        """The next queue position, or the first plan; raises what the router answered instead.

        A router that cannot be reached may be about to start: it is asked again for a while, and
        so is one that has just started and has not heard from all who beat.
        """
        give_up_at: float | None = None
        while True:
            try:
                return await self._next()
            except (Unavailable, UnknownModel) as err:
                now = self._clock.monotonic()
                if give_up_at is None:
                    if not isinstance(err, PeerUnreachable):
                        raise
                    give_up_at = now + self._patience.opening_s
                if now >= give_up_at:
                    raise
            await self._clock.sleep(_ASK_AGAIN_S)
            await self._close()

    async def another(
        self, lost: router_pb2.Plan, stage: pipeline_pb2.PipelineStage, reason: str
    ) -> router_pb2.Plan:
        """Report a lost stage and wait for a plan that avoids all lost so far.

        A router that has gone is asked until it is back: what it knew, it learns from beats.
        Raises what the router answers instead of a plan, TimeoutError when it is silent for too
        long, or others go first for too long.
        """
        self._lost.add(stage.incarnation)
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._patience.queue_s

        def heard() -> None:
            silent_until = loop.time() + self._patience.silence_s
            patience.reschedule(min(silent_until, max(ends_at, loop.time())))

        async with asyncio.timeout(self._patience.silence_s) as patience:
            try:
                await self._report(lost, stage, reason)
                return await self._plan(reason, heard)
            except PeerUnreachable:
                log.warning("router lost", extra={"model": self._opening.model})
            while True:
                await self._clock.sleep(_ASK_AGAIN_S)
                try:
                    await self._close()
                    return await self._plan(reason, heard)
                except (Unavailable, UnknownModel):
                    # It is not back, or has not heard from all who beat.
                    continue

    async def give_up(
        self, lost: router_pb2.Plan, stage: pipeline_pb2.PipelineStage, reason: str
    ) -> None:
        """Report a lost stage for the sake of others. Raises what the router answers, TimeoutError
        when that is nothing."""
        async with asyncio.timeout(self._patience.silence_s):
            await self._report(lost, stage, reason)
            # Any answer shows that the report was read, which a cancelled call may not be.
            await self._next()

    async def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.__aexit__(None, None, None)

    async def _next(self) -> router_pb2.PlanResponse:
        if self._stream is None:
            self._stream = await self._router.open_plan(self._opening).__aenter__()
        return await self._stream.next()

    async def _plan(self, reason: str, heard: Callable[[], None]) -> router_pb2.Plan:
        """The next plan without a stage that was lost; a router that is new must be told."""
        while True:
            answer = await self._next()
            heard()
            if answer.WhichOneof("event") != "plan":
                continue
            plan = answer.plan
            gone = (stage for stage in plan.pipeline.stages if stage.incarnation in self._lost)
            if (stage := next(gone, None)) is None:
                return plan
            await self._report(plan, stage, reason)

    async def _report(
        self, plan: router_pb2.Plan, stage: pipeline_pb2.PipelineStage, reason: str
    ) -> None:
        assert self._stream is not None, "a plan is held inside its context"
        await self._stream.report_lost(
            router_pb2.StageLost(
                attempt=plan.attempt,
                node_id=stage.node_id,
                incarnation=stage.incarnation,
                reason=reason,
            )
        )
