"""One answer of the cascade, from the drafter's first event to the last token.

1. The drafter answers: a kept answer ends it; else draft and verdicts come, in turns.
2. What may leave is read by the draft's own `Reply`; `policy` says how much that is.
3. SPECULATE starts the heavyweight behind what has left, RECOVER cancels it; meanwhile nothing
   leaves.
4. ACCEPT lets the rest of the draft leave and ends the answer.
5. ESCALATE, or a draft that is lost: the heavyweight takes over, behind what has left. Where the
   draft stands because tokens have left that nobody can go on behind, doubts are only counted; if
   it is lost, its own model carries it on, or the stream ends with an error where that is none of
   ours.
6. Behind the answer: it may be kept, and some are audited.

Owns who answers; does not know how a draft is judged, nor how either model is run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from shoal.drafter.v1 import drafter_pb2
from shoal_common.clock import Clock
from shoal_common.driving import PeerRefused, PeerUnreachable
from shoal_common.errors import DeadlineExceeded, Overloaded, ShoalError
from shoal_gateway.cascade.audit import Audits
from shoal_gateway.cascade.background import Background
from shoal_gateway.cascade.course import Course, Drafted, heavy_id
from shoal_gateway.cascade.draft import FleetDraft
from shoal_gateway.cascade.errors import DraftBroken, DrafterSilent, DraftLost
from shoal_gateway.cascade.heavy import HeavyRun, Standby, is_sign
from shoal_gateway.cascade.metrics import CascadeRecorder
from shoal_gateway.cascade.watch import DrafterWatch
from shoal_gateway.completion import Completer
from shoal_gateway.drafter import Drafter
from shoal_gateway.task import (
    Admitted,
    Answerer,
    ChatTask,
    Event,
    Finished,
    Provenance,
    Usage,
)

log = logging.getLogger(__name__)

# Beyond what a drafter takes for a whole draft, on the way.
_GRACE_S = 1.0
_VERDICT_NAMES = {
    drafter_pb2.VERDICT_SPECULATE: "speculate",
    drafter_pb2.VERDICT_RECOVER: "recover",
    drafter_pb2.VERDICT_ESCALATE: "escalate",
}


# Counts what a tenant's request has used beyond what its events show: id, tenant, usage.
Spend = Callable[[str, str, Usage], None]


@dataclass(frozen=True)
class CascadeParts:
    """What all answers share."""

    drafter: Drafter
    watch: DrafterWatch
    completer: Completer
    recorder: CascadeRecorder
    background: Background
    audits: Audits
    clock: Clock
    heavyweight_timeout_s: float
    spend: Spend


@dataclass(frozen=True)
class CascadeAnswer:
    """`drafted` is None where the heavyweight answers alone, for the reason `why_not`."""

    request_id: str
    model: str
    task: ChatTask
    heavy: Standby
    parts: CascadeParts
    drafted: Drafted | None = None
    why_not: str = ""
    # What the seed draws depends on who answers.
    fingerprint: str = ""

    def again(self, request_id: str, seed: int | None) -> CascadeAnswer:
        return replace(
            self,
            request_id=request_id,
            heavy=self.heavy.again(heavy_id(request_id), seed),
            drafted=None if self.drafted is None else self.drafted.again(request_id, seed),
        )

    async def events(self) -> AsyncGenerator[Event, None]:
        """Steps 1 to 6. Closing it gives up the draft and the heavyweight."""
        if self.drafted is None:
            source = self._alone()
        else:
            source = _Run(self, Course.of(self.drafted)).events()
        async with aclosing(source) as events:
            async for event in events:
                yield event

    async def _alone(self) -> AsyncGenerator[Event, None]:
        """The heavyweight's answer to a request that is not worth a draft."""
        recorder = self.parts.recorder
        recorder.bypassed(self.why_not)
        provenance = Provenance("heavyweight", escalation=self.why_not)
        run = HeavyRun(self.heavy, ())
        run.start(self.parts.clock, self.parts.heavyweight_timeout_s)
        try:
            async with aclosing(run.events()) as events:
                async for event in events:
                    if isinstance(event, Admitted):
                        event = replace(event, provenance=provenance)
                    elif isinstance(event, Finished):
                        usage = replace(event.usage, by_model={"heavyweight": run.spent})
                        event = replace(event, usage=usage, provenance=provenance)
                        recorder.answered("heavyweight")
                    yield event
        finally:
            await run.cancel()


class _Run:
    """The events of one answer that begins with a draft."""

    def __init__(self, answer: CascadeAnswer, course: Course) -> None:
        self._answer = answer
        self._course = course
        self._parts = answer.parts
        self._recorder = answer.parts.recorder
        self._heavy: HeavyRun | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        course = self._course
        try:
            async with aclosing(self._draft()) as events:
                async for event in events:
                    yield event
            if course.is_answered:
                return
            if course.stands and course.drafted.prepared is None:
                raise DraftLost(course.given_up)
            # The draft is closed by now: its machines are free for whoever goes on.
            async with aclosing(self._carry_on() if course.stands else self._take_over()) as rest:
                async for event in rest:
                    yield event
        finally:
            await self._stop_heavy()
            if not course.is_answered:
                # Whoever leaves pays for what was computed, seen or not.
                unseen = course.unseen
                self._parts.spend(self._answer.request_id, self._answer.task.tenant, unseen)

    async def _draft(self) -> AsyncGenerator[Event, None]:
        """Steps 1 to 4. Ends when the answer has, or when the draft is given up."""
        course = self._course
        async with aclosing(self._parts.drafter.answer(course.drafted.request)) as responses:
            while not course.is_answered:
                try:
                    await self._take(await self._next(responses))
                except ShoalError as err:
                    self._lose_draft(err)
                if course.given_up:
                    return
                events = course.released() if course.hit is None else course.kept(course.hit)
                for event in events:
                    course.left(event)
                    if isinstance(event, Finished):
                        self._note_end(event)
                    yield event

    async def _next(
        self, responses: AsyncGenerator[drafter_pb2.AnswerResponse, None]
    ) -> drafter_pb2.AnswerResponse:
        """Raises what the drafter answers instead; DrafterSilent when that is nothing."""
        bound_s = self._course.drafted.described.timeout_ms / 1000 + _GRACE_S
        try:
            async with asyncio.timeout(bound_s):
                response = await anext(responses, None)
        except TimeoutError as err:
            raise DrafterSilent(bound_s) from err
        if response is None:
            raise DraftBroken("it ended without a verdict")
        return response

    async def _take(self, response: drafter_pb2.AnswerResponse) -> None:
        """Take one event in; raises DraftBroken."""
        course = self._course
        match response.WhichOneof("event"):
            case "cache_hit":
                if course.is_begun:
                    raise DraftBroken("a kept answer came behind a draft")
                course.hit = response.cache_hit
            case "begun":
                course.begun = response.begun
            case "draft":
                course.take(response.draft)
            case "end":
                course.end = response.end
            case "judgement":
                await self._judge(response.judgement)

    async def _judge(self, judgement: drafter_pb2.Judgement) -> None:
        """Steps 3 to 5, as far as a verdict decides."""
        course = self._course
        verdict = judgement.verdict
        if course.stands and verdict in _VERDICT_NAMES:
            self._recorder.late(_VERDICT_NAMES[verdict])
        else:
            course.statistic = judgement.statistic
        if verdict == drafter_pb2.VERDICT_ACCEPT:
            course.is_speculating = False
            course.is_accepted = True
            await self._stop_heavy()
        elif verdict == drafter_pb2.VERDICT_ESCALATE:
            if course.stands and judgement.is_late:
                course.is_late = True
            else:
                course.given_up = judgement.reason or "error"
        elif verdict == drafter_pb2.VERDICT_RECOVER:
            course.is_speculating = False
            await self._stop_heavy()
        elif verdict == drafter_pb2.VERDICT_SPECULATE and not course.stands:
            self._speculate()

    def _speculate(self) -> None:
        """Whoever turned speculation off gets none, whatever the verdict."""
        if self._heavy is None and self._course.drafted.described.is_speculative:
            self._course.is_speculating = True
            self._start_heavy()
            self._recorder.speculation("started")

    def _start_heavy(self) -> HeavyRun:
        course = self._course
        left = course.draft.left if isinstance(course.draft, FleetDraft) else ()
        course.run_count += 1
        self._heavy = HeavyRun(self._answer.heavy, left, course.run_count)
        self._heavy.start(self._parts.clock, self._parts.heavyweight_timeout_s)
        return self._heavy

    async def _stop_heavy(self) -> None:
        """Cancel the heavyweight, if it runs; what it has computed is still paid for."""
        run, self._heavy = self._heavy, None
        if run is None:
            return
        await run.cancel()
        if not self._course.given_up:
            self._recorder.speculation("cancelled")
        spent, before = run.spent, self._course.heavy_spent
        self._course.heavy_spent = Usage(
            before.prompt_tokens + spent.prompt_tokens,
            before.completion_tokens + spent.completion_tokens,
        )

    def _lose_draft(self, error: ShoalError) -> None:
        """A draft that fails is no error: the heavyweight answers."""
        if isinstance(error, PeerUnreachable | PeerRefused):
            self._parts.watch.lost(error)
        reason = "error"
        if isinstance(error, DeadlineExceeded):
            reason = "timeout"
        elif isinstance(error, Overloaded):
            reason = "overloaded"
        self._course.given_up = reason
        fields = {"request_id": self._answer.request_id, "reason": error.reason}
        log.info("draft lost", extra=fields)

    async def _carry_on(self) -> AsyncGenerator[Event, None]:
        """The rest of a draft that stands, by the model that began it: the same tokens."""
        course = self._course
        prepared, draft = course.drafted.prepared, course.draft
        assert prepared is not None, "only ids can be gone on behind"
        assert isinstance(draft, FleetDraft)
        prepared = replace(prepared, request_id=f"{prepared.request_id}-2")
        async with aclosing(self._parts.completer.run(prepared, draft.reply)) as events:
            async for event in events:
                if isinstance(event, Admitted):
                    continue
                if isinstance(event, Finished):
                    parts = {**course.by_model(), "drafter": event.usage.spent}
                    event = replace(
                        event,
                        usage=replace(event.usage, by_model=parts),
                        provenance=course.provenance("drafter"),
                    )
                    self._count("drafter", event)
                yield course.left(event)

    async def _take_over(self) -> AsyncGenerator[Event, None]:
        """Step 5: what the heavyweight has said by now, and all that it says from now on."""
        course, recorder = self._course, self._recorder
        wanted_at = self._parts.clock.monotonic()
        # Ids may have left that do not make a whole character yet: then nothing has been told.
        by: Answerer = "drafter+heavyweight" if course.draft.released else "heavyweight"
        is_continued = course.is_begun
        recorder.escalated(course.given_up)
        recorder.wasted(course.draft.token_count - course.draft.released)
        run = self._heavy
        if run is None:
            run = self._start_heavy()
        else:
            recorder.speculation("used")
            recorder.took_over(wanted_at - run.started_at)
        has_spoken = False
        async with aclosing(run.events()) as events:
            async for event in events:
                if is_sign(event) and not has_spoken:
                    has_spoken = True
                    recorder.delayed(self._parts.clock.monotonic() - wanted_at)
                if isinstance(event, Admitted):
                    if is_continued:
                        continue
                    event = replace(event, provenance=course.provenance(by))
                elif isinstance(event, Finished):
                    event = self._ended_by_heavy(event, run, by)
                yield course.left(event)

    def _note_end(self, finished: Finished) -> None:
        """Step 6 for a draft or a kept answer."""
        hit = self._course.hit
        if hit is None:
            self._count("drafter", finished)
            self._remember(finished, "drafter")
            self._audit(is_escalated=False)
        else:
            self._recorder.answered("cache")
            self._recorder.kept(finished.provenance.cache_layer if finished.provenance else "exact")
            self._recorder.saved("cache", finished.usage.completion_tokens)

    def _ended_by_heavy(self, finished: Finished, run: HeavyRun, by: Answerer) -> Finished:
        """Step 6 for the heavyweight."""
        course = self._course
        usage = replace(finished.usage, by_model=course.by_model(run.spent))
        finished = replace(finished, usage=usage, provenance=course.provenance(by))
        self._recorder.answered(by)
        self._recorder.saved("drafter", run.prefix_count)
        if course.drafted.described.keeps_heavyweight:
            self._remember(finished, "heavyweight")
        self._audit(is_escalated=True)
        return finished

    def _count(self, by: Answerer, finished: Finished) -> None:
        """A draft that stood."""
        self._recorder.answered(by)
        self._recorder.saved("drafter", finished.usage.completion_tokens)
        self._recorder.wasted(max(0, self._course.draft.token_count - self._course.draft.released))

    def _remember(self, finished: Finished, answered_by: str) -> None:
        """Only plain text that ended by itself is kept, and none that stood unjudged."""
        course = self._course
        request, described = course.drafted.request, course.drafted.described
        is_wanted = described.has_cache and request.cache_use != drafter_pb2.CACHE_USE_NONE
        text = "".join(course.said)
        is_sound = answered_by == "heavyweight" or course.is_sound
        if not (is_wanted and is_sound and course.is_plain and text and finished.reason == "stop"):
            return
        remembering = self._parts.drafter.remember(
            drafter_pb2.RememberRequest(
                request_id=request.request_id,
                task=request.task,
                text=text,
                prompt_token_count=finished.usage.prompt_tokens,
                completion_token_count=finished.usage.completion_tokens,
                answered_by=answered_by,
            )
        )
        if not self._parts.background.add("remember", remembering):
            self._recorder.dropped("remember")

    def _audit(self, *, is_escalated: bool) -> None:
        self._parts.audits.offer(self._answer.request_id, self._course.drafted, is_escalated)
