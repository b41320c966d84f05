"""The life of one Answer.

1. Admit: one of `answer_concurrency`, or the heavyweight answers.
2. Look up: a kept answer ends it.
3. Draft: each token's uncertainty goes to the gate, the token itself to the caller.
4. Judge: SPECULATE and RECOVER on the way; ESCALATE closes the draft at once and ends it. Where the
   caller lets tokens go once the first have passed, a later doubt is told once and ends nothing.
5. Finish: the draft has ended by itself; the last verdict is ACCEPT or ESCALATE.

Whatever goes wrong with a draft is a verdict, not an error: the heavyweight answers. Owns the order
of these and the draft's time; does not know where drafts come from, nor what is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import perf_counter

from shoal.drafter.v1 import drafter_pb2
from shoal_entropy_drafter.draft.base import (
    DraftBegun,
    DraftEnded,
    DraftEvent,
    DraftSource,
    DraftToken,
    DraftTokens,
)
from shoal_entropy_drafter.entropy import Entropy
from shoal_entropy_drafter.errors import DraftFailed, DraftTimedOut, TooManyAnswers
from shoal_entropy_drafter.gate import Gate, GateRules, Judgement, Verdict
from shoal_entropy_drafter.metrics import DraftOutcome, Recorder, VerdictName, VerdictReason
from shoal_entropy_drafter.remembering import Memory

log = logging.getLogger(__name__)

_NAMES: dict[Verdict, VerdictName] = {
    Verdict.SPECULATE: "speculate",
    Verdict.RECOVER: "recover",
    Verdict.ESCALATE: "escalate",
    Verdict.ACCEPT: "accept",
}
_MESSAGES: dict[VerdictName, drafter_pb2.Verdict] = {
    "speculate": drafter_pb2.VERDICT_SPECULATE,
    "recover": drafter_pb2.VERDICT_RECOVER,
    "escalate": drafter_pb2.VERDICT_ESCALATE,
    "accept": drafter_pb2.VERDICT_ACCEPT,
}

Answers = AsyncGenerator[drafter_pb2.AnswerResponse, None]


@dataclass(frozen=True)
class AnswerLimits:
    """timeout_s: of a whole draft, look-up included. answer_count_max: answers at once."""

    timeout_s: float
    answer_count_max: int


class Answerer:
    """Answers any number of requests at once; keeps nothing of them but what `memory` does."""

    def __init__(
        self,
        rules: GateRules,
        source: DraftSource,
        memory: Memory,
        recorder: Recorder,
        limits: AnswerLimits,
    ) -> None:
        self._rules = rules
        self._source = source
        self._memory = memory
        self._recorder = recorder
        self._limits = limits
        self._answer_count = 0

    async def answer(self, request: drafter_pb2.AnswerRequest) -> Answers:
        """The events of one request; closing the iterator gives its draft up.

        Raises InvalidRequest where it lacks what the drafter needs; DraftFailed, DraftTimedOut and
        TooManyAnswers of ungated drafts alone.
        """
        self._source.check(request)
        if self._answer_count >= self._limits.answer_count_max:
            if request.is_ungated:
                raise TooManyAnswers(self._limits.answer_count_max)
            run = _Run(request, self._rules, self._recorder)
            yield run.escalated("overloaded")
            return
        self._answer_count += 1
        try:
            with self._recorder.answering():
                events = self._ungated if request.is_ungated else self._gated
                async with aclosing(events(request)) as responses:
                    async for response in responses:
                        yield response
        finally:
            self._answer_count -= 1

    async def _gated(self, request: drafter_pb2.AnswerRequest) -> Answers:
        """Steps 2 to 5."""
        run = _Run(request, self._rules, self._recorder)
        time_left = _TimeLeft(self._limits.timeout_s, request.remaining_ms)
        hit = await self._memory.look_up(request)
        if hit is not None:
            yield drafter_pb2.AnswerResponse(cache_hit=hit)
            return
        try:
            async with aclosing(_drafted(self._source, request, time_left)) as events:
                async for event in events:
                    for response in run.take(event):
                        yield response
                    if run.last is not None:
                        break
            last = run.last
            assert last is not None, "a source ends with DraftEnded or raises"
        except DraftFailed as err:
            last = run.escalated(err.verdict_reason, err.problem)
        finally:
            # Also where the caller went away.
            run.close()
        yield last

    async def _ungated(self, request: drafter_pb2.AnswerRequest) -> Answers:
        """The whole draft, each token with its doubt."""
        time_left = _TimeLeft(self._limits.timeout_s, request.remaining_ms)
        token_count = 0
        try:
            async with aclosing(_drafted(self._source, request, time_left)) as events:
                async for event in events:
                    if isinstance(event, DraftTokens):
                        delta = _delta(event.tokens, token_count, self._rules)
                        delta.doubts.extend(_doubt(token.entropy) for token in event.tokens)
                        token_count += len(event.tokens)
                        yield drafter_pb2.AnswerResponse(draft=delta)
                    else:
                        yield _told(event, token_count)
        except DraftFailed as err:
            if err.verdict_reason == "timeout":
                raise DraftTimedOut(time_left.total_s) from err
            raise


class _TimeLeft:
    """A draft's time, counted from now on."""

    def __init__(self, timeout_s: float, remaining_ms: int) -> None:
        """remaining_ms: of the request, 0 for no limit."""
        self.total_s = min(timeout_s, remaining_ms / 1000) if remaining_ms else timeout_s
        self.ends_at = asyncio.get_running_loop().time() + self.total_s

    @property
    def value_s(self) -> float:
        return max(0.0, self.ends_at - asyncio.get_running_loop().time())


async def _drafted(
    source: DraftSource, request: drafter_pb2.AnswerRequest, time_left: _TimeLeft
) -> AsyncGenerator[DraftEvent, None]:
    """The draft's events until its time is up; then DraftFailed with reason timeout."""
    async with aclosing(source.draft(request, time_left.value_s)) as events:
        while True:
            try:
                # Around one step: a caller that reads slowly must not be what is cancelled.
                async with asyncio.timeout_at(time_left.ends_at):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError as err:
                problem = f"it took longer than {time_left.total_s:g} s"
                raise DraftFailed(problem, verdict_reason="timeout") from err
            yield event


class _Run:
    """One gated draft on its way: what the gate has seen, and what is counted of it."""

    def __init__(
        self, request: drafter_pb2.AnswerRequest, rules: GateRules, recorder: Recorder
    ) -> None:
        vocabulary_size = request.fleet_draft.vocabulary_size
        self._rules = replace(rules, vocabulary_size=vocabulary_size)
        self._request_id = request.request_id
        self._recorder = recorder
        self._gate = Gate(self._rules)
        self._drafted_count = 0
        self._told_count = 0
        self._began_at = perf_counter()
        self._outcome: DraftOutcome = "abandoned"
        self._reason: VerdictReason = ""
        self._problem = ""
        self._stands_when_passed = request.stands_when_passed
        self._is_late = False
        self.last: drafter_pb2.AnswerResponse | None = None
        """The verdict that ends it, to be sent once the draft is closed."""

    def take(self, event: DraftEvent) -> Iterator[drafter_pb2.AnswerResponse]:
        """What is to be sent of an event, the last verdict excepted."""
        if isinstance(event, DraftTokens):
            yield from self._tokens(event)
            return
        yield _told(event, self._told_count)
        if isinstance(event, DraftEnded):
            has_passed = self._gate.is_early_exit_passed
            late = self._judged(self._gate.finish(event.completion_token_count), has_passed)
            if late is not None:
                yield late
            if self._is_late:
                self._outcome = "accepted"
                self.last = self._last("accept", "late")

    def escalated(self, reason: VerdictReason, problem: str = "") -> drafter_pb2.AnswerResponse:
        """The verdict where something else than the gate has ended the draft."""
        self._outcome, self._reason, self._problem = "failed", reason, problem
        return self._last("escalate", reason)

    def close(self) -> None:
        """Count the draft, which is closed, and write its line."""
        self._recorder.draft_ended(self._outcome, self._reason, self._drafted_count)
        is_failed = self._outcome == "failed"
        log.log(
            logging.WARNING if is_failed else logging.INFO,
            "draft ended",
            extra={
                "request_id": self._request_id,
                "outcome": self._outcome,
                "reason": self._reason,
                **({"problem": self._problem} if is_failed else {}),
                "tokens_drafted": self._drafted_count,
                "statistic": round(self._gate.statistic, 4),
                "duration_ms": round((perf_counter() - self._began_at) * 1000),
            },
        )

    def _tokens(self, event: DraftTokens) -> Iterator[drafter_pb2.AnswerResponse]:
        first_position = self._told_count
        self._drafted_count += len(event.tokens)
        judged: list[drafter_pb2.AnswerResponse] = []
        fed: list[DraftToken] = []
        for token in event.tokens:
            fed.append(token)
            has_passed = self._gate.is_early_exit_passed
            response = self._judged(self._gate.feed(token.entropy), has_passed)
            if response is not None:
                judged.append(response)
            if self.last is not None:
                break
        self._told_count += len(fed)
        delta = _delta(fed, first_position, self._rules)
        delta.settled_count = self._gate.settled_count
        self._recorder.tokens_drafted(delta.entropy_bits, len(event.tokens))
        yield drafter_pb2.AnswerResponse(draft=delta)
        yield from judged

    def _judged(self, judgement: Judgement, has_passed: bool) -> drafter_pb2.AnswerResponse | None:
        """What a judgement says at once, if anything; a last one is kept as `last`.

        has_passed: the first tokens had, before this judgement.
        """
        if judgement.verdict is Verdict.CONTINUE or self._is_late:
            return None
        name = _NAMES[judgement.verdict]
        if judgement.verdict is Verdict.ACCEPT:
            self._outcome = "accepted"
            self.last = self._last(name, "")
        elif judgement.verdict is Verdict.ESCALATE and has_passed and self._stands_when_passed:
            self._is_late = True
            response = self._response(name, judgement.reason)
            response.judgement.is_late = True
            return response
        elif judgement.verdict is Verdict.ESCALATE:
            self._outcome, self._reason = "escalated", judgement.reason
            self.last = self._last(name, judgement.reason)
        else:
            return self._response(name, judgement.reason)
        return None

    def _last(self, verdict: VerdictName, reason: VerdictReason) -> drafter_pb2.AnswerResponse:
        self._recorder.decided(verdict, perf_counter() - self._began_at)
        return self._response(verdict, reason)

    def _response(self, verdict: VerdictName, reason: VerdictReason) -> drafter_pb2.AnswerResponse:
        statistic = self._gate.statistic
        self._recorder.judged(verdict, reason, statistic)
        return drafter_pb2.AnswerResponse(
            judgement=drafter_pb2.Judgement(
                verdict=_MESSAGES[verdict],
                reason=reason,
                statistic=statistic,
                position=self._gate.token_count,
            )
        )


def _delta(
    tokens: Sequence[DraftToken], first_position: int, rules: GateRules
) -> drafter_pb2.DraftDelta:
    return drafter_pb2.DraftDelta(
        text="".join(token.text for token in tokens),
        first_position=first_position,
        entropy_bits=[token.entropy.doubt(rules.statistic, rules.estimate) for token in tokens],
        tokens=[token.token for token in tokens if token.token is not None],
    )


def _doubt(entropy: Entropy) -> drafter_pb2.TokenDoubt:
    return drafter_pb2.TokenDoubt(
        renormalised_bits=entropy.renormalised,
        lower_bits=entropy.lower,
        upper_bits=entropy.upper,
        margin=entropy.margin,
        is_known=entropy.is_known,
    )


def _told(event: DraftBegun | DraftEnded, token_count: int) -> drafter_pb2.AnswerResponse:
    """token_count: tokens seen, for a source that does not count them."""
    if isinstance(event, DraftBegun):
        begun = drafter_pb2.DraftBegun(plan=event.plan, admitted=event.admitted)
        return drafter_pb2.AnswerResponse(begun=begun)
    counted = event.completion_token_count
    return drafter_pb2.AnswerResponse(
        end=drafter_pb2.DraftEnd(
            reason=event.reason,
            prompt_token_count=event.prompt_token_count,
            completion_token_count=token_count if counted is None else counted,
            cached_token_count=event.cached_token_count,
            timings=event.timings,
        )
    )
