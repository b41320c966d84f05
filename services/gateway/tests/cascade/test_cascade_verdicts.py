"""Whatever a drafter says in whatever order: no token is taken back, and nothing is left running.

The drafter, the heavyweight and the completer are played in this process, so that thousands of
scripts run in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shoal.common.v1 import chat_pb2
from shoal.drafter.v1 import drafter_pb2
from shoal.worker.v1 import stage_pb2
from shoal_common.clock import SystemClock
from shoal_common.driving import PeerUnreachable
from shoal_common.errors import DeadlineExceeded, Overloaded, ShoalError, Unavailable
from shoal_common.tokens import ModelTokens
from shoal_gateway.cascade.answer import CascadeAnswer, CascadeParts
from shoal_gateway.cascade.audit import Audits
from shoal_gateway.cascade.background import Background
from shoal_gateway.cascade.course import Drafted
from shoal_gateway.cascade.heavy import Standby
from shoal_gateway.cascade.metrics import NullRecorder
from shoal_gateway.cascade.policy import HoldFirst, Policy, hold_all, settled_only
from shoal_gateway.cascade.watch import DrafterWatch
from shoal_gateway.collect import Collected
from shoal_gateway.completion import reply_to
from shoal_gateway.local import LocalAnswer
from shoal_gateway.prompt import Prepared
from shoal_gateway.reply import Reply
from shoal_gateway.shape import PLAIN
from shoal_gateway.task import Admitted, ChatTask, Event, Finished, Message, Usage

from .conftest import Step, begun, delta, described, ended, verdict

# Its first tokens are parts of one character.
DRAFT = "🦈 the draft says: 42 fish swim"
HEAVY = "the heavyweight knows that 43 of them — 魚 — swim"
FAILURES = [Unavailable("gone"), Overloaded("full"), DeadlineExceeded("late")]
POLICIES: list[Policy] = [hold_all, settled_only, HoldFirst(2)]


@dataclass
class World:
    """Both models and the drafter. `heavy_ids` are said from position `len(prefix)` on as they
    are: the heavyweight's own words behind any prefix."""

    draft_ids: list[int]
    heavy_ids: list[int]
    script: Sequence[Step] = ()
    heavy_error_at: int | None = None
    running: int = 0
    prefixes: list[int] = field(default_factory=list)
    carried_on: int = 0
    remembered: list[Any] = field(default_factory=list)
    unseen: Usage | None = None
    # The heavyweight has said a few words.
    is_spoken: asyncio.Event = field(default_factory=asyncio.Event)

    def spend(self, request_id: str, tenant: str, usage: Usage) -> None:
        assert self.unseen is None, "an answer is counted once"
        self.unseen = usage

    async def describe(self) -> drafter_pb2.DescribeResponse:
        return described()

    async def answer(self, request: Any) -> AsyncGenerator[drafter_pb2.AnswerResponse, None]:
        self.running += 1
        try:
            for step in self.script:
                # The heavyweight gets its turns.
                await asyncio.sleep(0)
                if isinstance(step, ShoalError):
                    raise step
                assert isinstance(step, drafter_pb2.AnswerResponse)
                yield step
        finally:
            self.running -= 1

    async def remember(self, request: Any) -> bool:
        self.remembered.append(request)
        return True

    async def run(
        self, prepared: Prepared, reply: Reply | None = None
    ) -> AsyncGenerator[Event, None]:
        """As Completer's: the draft's model goes on with the draft, the other with its own."""
        reply = reply or reply_to(prepared)
        known = len(reply.ids)
        if prepared.model == "drafter":
            self.carried_on += 1
            rest = self.draft_ids[known:]
        else:
            self.prefixes.append(known)
            rest = self.heavy_ids
        self.running += 1
        try:
            yield Admitted(3)
            for index, token_id in enumerate(rest):
                await asyncio.sleep(0)
                if index > 3:
                    self.is_spoken.set()
                if index == self.heavy_error_at and prepared.model != "drafter":
                    raise Unavailable("the heavyweight is gone")
                token = stage_pb2.GeneratedToken(token_id=token_id)
                tokens = stage_pb2.TokensDelta(first_position=len(reply.ids), tokens=[token])
                for content in reply.feed(tokens):
                    yield content
            for content in reply.flush():
                yield content
            yield Finished("stop", Usage(3, len(reply.ids)))
        finally:
            self.running -= 1


def prepared(model: str, tokens: ModelTokens) -> Prepared:
    return Prepared(
        request_id=f"req-1-{model[0]}",
        task=ChatTask("cascade", (Message("user", "hi"),)),
        model=model,
        revision="r1",
        tokens=tokens,
        reading=PLAIN,
        prompt_ids=(1, 5, 6),
        sampling=chat_pb2.SamplingSpec(),
        grammar=None,
        max_tokens=200,
    )


def answer_of(world: World, policy: Policy, tokens: ModelTokens) -> CascadeAnswer:
    draft = prepared("drafter", tokens)
    drafted = Drafted(draft.task, drafter_pb2.AnswerRequest(), described(), policy, draft)
    heavy = LocalAnswer(prepared("heavyweight", tokens), cast(Any, world))

    async def opened(request_id: str = "", task: Any = None) -> LocalAnswer:
        return heavy

    drafter = cast(Any, world)
    recorder, clock = NullRecorder(), SystemClock()
    parts = CascadeParts(
        drafter=drafter,
        watch=DrafterWatch(drafter, clock, 60.0),
        completer=cast(Any, world),
        recorder=recorder,
        background=Background(4),
        audits=Audits(0.0, drafter, opened, recorder),
        clock=clock,
        heavyweight_timeout_s=60.0,
        spend=world.spend,
    )
    standby = Standby("heavyweight", opened, heavy)
    return CascadeAnswer("req-1", "cascade", draft.task, standby, parts, drafted)


def decoded(tokens: ModelTokens, ids: Sequence[int]) -> str:
    reader = tokens.detokenizer()
    return reader.feed(list(ids)) + reader.flush()


@st.composite
def scripts(draw: st.DrawFn, ids: list[int]) -> list[Step]:
    """Deltas with verdicts between them, and an end: any that a drafter could write, and more."""
    steps: list[Step] = [begun()]
    position = settled = 0
    while position < len(ids):
        size = draw(st.integers(1, 4))
        position_after = min(len(ids), position + size)
        settled = draw(st.integers(settled, position_after))
        steps.append(delta(ids[position:position_after], position, settled))
        position = position_after
        match draw(st.sampled_from(["go on"] * 8 + ["speculate", "recover", "escalate", "die"])):
            case "speculate":
                steps.append(verdict("speculate", "soft"))
            case "recover":
                steps.append(verdict("recover", "calm"))
            case "escalate":
                return [*steps, verdict("escalate", "window")]
            case "die":
                failure = draw(st.sampled_from([*FAILURES, None]))
                return steps if failure is None else [*steps, failure]
    steps.append(ended(len(ids)))
    last = draw(st.sampled_from(["accept", "accept", "escalate", "die"]))
    if last != "die":
        steps.append(verdict(last, "end" if last == "escalate" else ""))
    return steps


def settled_at_most(script: Sequence[Step]) -> int:
    deltas = [step.draft for step in script if not isinstance(step, ShoalError | asyncio.Event)]
    return max((one.settled_count for one in deltas), default=0)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


async def settle() -> None:
    """Let what was cancelled come to its end, and see that nothing else is left."""
    left = asyncio.all_tasks() - {cast(Any, asyncio.current_task())}
    await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.parametrize("policy", POLICIES, ids=["hold_all", "settled_only", "hold_first"])
@given(data=st.data())
@hypothesis_settings(
    max_examples=80,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_the_client_reads_is_one_models_words_behind_the_others(
    policy: Policy, data: st.DataObject, demo_tokens: ModelTokens
) -> None:
    draft_ids, heavy_ids = demo_tokens.encode(DRAFT), demo_tokens.encode(HEAVY)
    script = data.draw(scripts(draft_ids))
    error_at = data.draw(st.sampled_from([None, None, None, 0, 3]))
    world = World(draft_ids, heavy_ids, script, error_at)

    async def main() -> None:
        said, error = Collected(), None
        try:
            async with aclosing(answer_of(world, policy, demo_tokens).events()) as events:
                async for event in events:
                    said.add(event)
        except Unavailable as err:
            error = err
        await settle()
        assert world.running == 0
        check(said, error)

    def check(said: Collected, error: ShoalError | None) -> None:
        by = said.finished.provenance.answered_by if said.finished.provenance else ""
        if error is not None:
            assert error_at is not None
            assert not world.carried_on
            prefix = world.prefixes[-1]
            full = decoded(demo_tokens, [*draft_ids[:prefix], *heavy_ids])
            assert full.startswith(said.text)
        elif by == "drafter":
            assert said.text == decoded(demo_tokens, draft_ids)
            assert said.finished.usage.completion_tokens == len(draft_ids)
        else:
            prefix = world.prefixes[-1]
            assert by == ("drafter+heavyweight" if prefix else "heavyweight")
            assert said.text == decoded(demo_tokens, [*draft_ids[:prefix], *heavy_ids])
            assert said.finished.usage.completion_tokens == prefix + len(heavy_ids)
            assert prefix <= (settled_at_most(script) if policy is settled_only else 0)
        assert world.carried_on == 0 or isinstance(policy, HoldFirst)
        if world.remembered:
            assert script[-1] == verdict("accept")

    run(main())


@pytest.mark.parametrize("policy", POLICIES, ids=["hold_all", "settled_only", "hold_first"])
@given(data=st.data())
@hypothesis_settings(
    max_examples=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whoever_leaves_at_any_moment_leaves_nothing_running(
    policy: Policy, data: st.DataObject, demo_tokens: ModelTokens
) -> None:
    draft_ids, heavy_ids = demo_tokens.encode(DRAFT), demo_tokens.encode(HEAVY)
    world = World(draft_ids, heavy_ids, data.draw(scripts(draft_ids)))
    patience = data.draw(st.integers(1, 60))
    is_cancelled = data.draw(st.booleans())

    async def read(count: int | None) -> None:
        async with aclosing(answer_of(world, policy, demo_tokens).events()) as events:
            async for _ in events:
                if count is not None and (count := count - 1) <= 0:
                    return

    async def main() -> None:
        if is_cancelled:
            reading = asyncio.create_task(read(None))
            for _ in range(patience):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        else:
            await read(patience)
        assert world.running == 0
        await settle()

    run(main())


def test_whoever_leaves_pays_for_what_both_models_computed(demo_tokens: ModelTokens) -> None:
    draft_ids, heavy_ids = demo_tokens.encode(DRAFT), demo_tokens.encode(HEAVY)
    script: list[Step] = [begun(), delta(draft_ids[:4], 0), verdict("speculate", "soft")]
    script += [delta([], 4)] * 400
    world = World(draft_ids, heavy_ids, script)

    async def main() -> None:
        async with aclosing(answer_of(world, hold_all, demo_tokens).events()) as events:
            reading = asyncio.ensure_future(anext(events))
            await world.is_spoken.wait()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert world.unseen is not None
        assert world.unseen.prompt_tokens == 6
        assert world.unseen.completion_tokens > 4

    run(main())


@pytest.mark.parametrize("policy", POLICIES, ids=["hold_all", "settled_only", "hold_first"])
def test_a_drafter_that_dies_at_any_event_costs_no_answer(
    policy: Policy, demo_tokens: ModelTokens
) -> None:
    draft_ids, heavy_ids = demo_tokens.encode(DRAFT), demo_tokens.encode(HEAVY)
    whole: list[Step] = [begun()]
    for at, token_id in enumerate(draft_ids):
        whole.append(delta([token_id], at, max(0, at - 1)))
    whole += [ended(len(draft_ids)), verdict("accept")]

    async def main() -> None:
        for count in range(len(whole)):
            world = World(draft_ids, heavy_ids, [*whole[:count], PeerUnreachable("the drafter")])
            said = Collected()
            async with aclosing(answer_of(world, policy, demo_tokens).events()) as events:
                async for event in events:
                    said.add(event)
            assert world.running == 0
            if world.carried_on:
                assert said.text == decoded(demo_tokens, draft_ids), count
            else:
                prefix = world.prefixes[-1]
                assert said.text == decoded(demo_tokens, [*draft_ids[:prefix], *heavy_ids]), count

    run(main())
