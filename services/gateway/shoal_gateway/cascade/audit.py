"""Was the escalation right? For a share of the requests both models answer in full, afterwards.

A draft that agrees with the heavyweight need not have been escalated, one that does not should have
been. Both are asked greedily, so that chance is not taken for disagreement. One audit at a time,
and few wait: what comes beyond is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from blake3 import blake3

from shoal_common.errors import ShoalError
from shoal_gateway.answers import Answer
from shoal_gateway.cascade.background import Background
from shoal_gateway.cascade.course import Drafted
from shoal_gateway.cascade.errors import DraftBroken
from shoal_gateway.cascade.metrics import CascadeRecorder
from shoal_gateway.cascade.policy import hold_all
from shoal_gateway.collect import Collected, collect
from shoal_gateway.drafter import Drafter
from shoal_gateway.task import ChatTask

WAITING_MAX = 16
# Of one audit, however slow the models are.
_TIMEOUT_S = 600.0

OpenHeavy = Callable[[str, ChatTask], Awaitable[Answer]]


class Audits:
    """Offer every answer; few are looked at again. Tasks that must leave no trace never are."""

    def __init__(
        self, share: float, drafter: Drafter, open_heavy: OpenHeavy, recorder: CascadeRecorder
    ) -> None:
        """share: of the requests, 0 for none."""
        self._share = share
        self._drafter = drafter
        self._open_heavy = open_heavy
        self._recorder = recorder
        self._background = Background(WAITING_MAX)
        self._turn = asyncio.Lock()

    def offer(self, request_id: str, drafted: Drafted, is_escalated: bool) -> None:
        """Audit it in the background, if it is one of the share and there is room."""
        task = drafted.task
        is_traceable = task.privacy.is_open and task.cache_control != "no-store"
        if not (is_traceable and is_chosen(request_id, self._share)):
            return
        if not self._background.add("audit", self._audit(request_id, drafted, is_escalated)):
            self._recorder.audit_dropped("full")

    async def close(self) -> None:
        """Give up those that run."""
        await self._background.drain(0.0)

    async def drain(self, timeout_s: float) -> None:
        """Wait for those that run."""
        await self._background.drain(timeout_s)

    async def _audit(self, request_id: str, drafted: Drafted, is_escalated: bool) -> None:
        audit_id = f"{request_id}-audit"
        async with self._turn:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    draft = await self._draft(greedy(drafted, audit_id))
                    heavy = await self._heavy(f"{audit_id}-h", drafted.task)
            except (ShoalError, TimeoutError):
                self._recorder.audit_dropped("failed")
                return
        self._recorder.audited(is_escalated, agree(draft, heavy))

    async def _heavy(self, audit_id: str, task: ChatTask) -> Collected:
        sampling = replace(task.sampling, temperature=0.0)
        task = replace(task, sampling=sampling, is_streamed=False)
        return await collect((await self._open_heavy(audit_id, task)).events())

    async def _draft(self, drafted: Drafted) -> Collected:
        draft, whole = drafted.draft(), Collected()
        async with aclosing(self._drafter.answer(drafted.request)) as responses:
            async for response in responses:
                kind = response.WhichOneof("event")
                if kind == "draft":
                    draft.take(response.draft)
                elif kind == "end":
                    contents = draft.release(hold_all, is_speculating=False, is_accepted=True)
                    for content in [*contents, *draft.flush()]:
                        whole.add(content)
                    return whole
        raise DraftBroken("it ended without an end")


def is_chosen(request_id: str, share: float) -> bool:
    """The same requests for the same share, on every replica."""
    drawn = int.from_bytes(blake3(request_id.encode()).digest(length=8), "big")
    return drawn < share * 2**64


def greedy(drafted: Drafted, audit_id: str) -> Drafted:
    """The same draft whatever the gate thinks of it, without chance."""
    drafted = drafted.again(audit_id, drafted.task.sampling.seed)
    request = drafted.request
    request.is_ungated = True
    request.task.sampling.temperature = 0.0
    if drafted.prepared is not None:
        request.fleet_draft.generate.sampling.temperature = 0.0
    return drafted


def agree(one: Collected, other: Collected) -> bool:
    """The same words and the same calls, whatever stands between them."""
    calls = [[(call.name, call.arguments) for call in said.calls] for said in (one, other)]
    return one.text.split() == other.text.split() and calls[0] == calls[1]
