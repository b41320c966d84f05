"""A head beside a stage that is silent, slow or unwilling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shoal.worker.v1 import stage_pb2
from shoal_common.errors import StageFailed
from shoal_common.testing import FakeClock
from shoal_worker_gpu.rpc import StageRpc
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.testing import HashBackend, expected_tokens

from .conftest import LAYER_COUNT, Node, Pipeline, hash_nodes, running
from .puppet import Puppet

PROMPT = [3, 1, 4, 1]
CUT = 3
# So long that a test which waits for it has failed.
PATIENT = Settings(block_size_tokens=4, grow_blocks=1, link_timeout_s=60)


@pytest.fixture
async def puppet() -> AsyncIterator[Puppet]:
    async with Puppet(CUT, LAYER_COUNT).running() as puppet:
        yield puppet


def head_node(clock: FakeClock | None = None, ack_timeout_s: float = 1.0) -> Node[HashBackend]:
    backend = HashBackend(0, CUT, LAYER_COUNT)
    return Node(backend, PATIENT, "head", clock=clock, ack_timeout_s=ack_timeout_s)


def driven(pipeline: Pipeline[HashBackend], puppet: Puppet) -> Pipeline[HashBackend]:
    """The head's pipeline with the puppet behind it."""
    pipeline.plan.stages.append(puppet.stage())
    return pipeline


async def passes(clock: FakeClock, seconds: float) -> None:
    """Time passes in steps short enough for every watcher to see its moment."""
    for _ in range(round(seconds / 0.25)):
        await clock.advance(0.25)


async def test_a_frame_without_receipt_loses_the_link(puppet: Puppet) -> None:
    """The stage takes the stream and the frame, and never says a word."""
    clock = FakeClock()
    async with running([head_node(clock)]) as pipeline:
        reply = asyncio.create_task(driven(pipeline, puppet).tokens(PROMPT, 4))
        puppet.grant(await puppet.hear("attach"))
        await puppet.hear("frame")
        await passes(clock, 1.0)
        assert not reply.done(), "a receipt may take its time"
        await passes(clock, 0.5)
        with pytest.raises(StageFailed, match=r"puppet.*no receipt within 1 s"):
            await reply
        await pipeline.until_free()


async def test_a_stage_that_computes_for_ever_is_given_up(puppet: Puppet) -> None:
    """It confirms frames. One step has shown how long they take; the next never ends."""
    clock = FakeClock()
    async with running([head_node(clock)]) as pipeline:
        reply = asyncio.create_task(driven(pipeline, puppet).tokens(PROMPT, 4))
        puppet.grant(await puppet.hear("attach"))
        first = await puppet.hear("frame")
        await clock.advance(0.1)
        puppet.answer(first, 7)
        puppet.ack(await puppet.hear("frame"))
        with pytest.raises(StageFailed, match=r"puppet.*no progress within the deadline"):
            await ended(reply, clock, 4.0)
        await pipeline.until_free()


async def ended(reply: asyncio.Task[list[int]], clock: FakeClock, limit_s: float) -> list[int]:
    """Let up to `limit_s` pass, with room for real messages between the moments."""
    for _ in range(round(limit_s / 0.25)):
        await asyncio.wait([reply], timeout=0.01)
        await clock.advance(0.25)
    async with asyncio.timeout(20):
        return await reply


@pytest.mark.parametrize(("cuts", "hung"), [((), 0), ((CUT,), 0), ((2, 4), 1), ((CUT,), 1)])
async def test_a_real_stage_that_hangs_inside_a_step_is_given_up_by_name(
    cuts: tuple[int, ...], hung: int
) -> None:
    """Its streams live on; only its compute thread stands still."""
    clock = FakeClock()
    nodes = hash_nodes(cuts, PATIENT, clock=clock, ack_timeout_s=60.0)
    async with running(nodes) as pipeline:
        events = pipeline.events(pipeline.request(PROMPT, 200))
        async for event in events:
            if event.HasField("tokens"):
                break
        nodes[hung].backend.gate.clear()
        # Nothing was measured: the clock stood still. An unmeasured step may take 30 s.
        reply = asyncio.create_task(rest(events))
        with pytest.raises(StageFailed, match=rf"worker-{hung}.*no progress within the deadline"):
            await ended(reply, clock, 32.0)
        nodes[hung].backend.gate.set()
        await pipeline.until_free()
        assert await pipeline.tokens(PROMPT, 5) == expected_tokens(PROMPT, 5)


async def rest(events: AsyncIterator[stage_pb2.GenerateResponse]) -> list[int]:
    return [token.token_id async for event in events for token in event.tokens.tokens]


async def test_a_refused_attach_does_not_hold_up_the_next_request(puppet: Puppet) -> None:
    async with running([head_node()]) as pipeline:
        driven(pipeline, puppet)
        refused = asyncio.create_task(pipeline.tokens(PROMPT, 1))
        puppet.refuse((await puppet.hear("attach")).key, "WRONG_ENGINE")
        with pytest.raises(StageFailed, match=r"puppet.*WRONG_ENGINE"):
            await refused
        reply = asyncio.create_task(pipeline.tokens(PROMPT, 1))
        puppet.grant(await puppet.hear("attach"))
        puppet.answer(await puppet.hear("frame"), 7)
        assert await reply == [7]


async def test_a_refusal_that_comes_while_growing_does_not_end_the_replay(puppet: Puppet) -> None:
    """The stage has no KV for the first attempt; the second one gets it."""
    async with running([head_node()]) as pipeline:
        reply = asyncio.create_task(driven(pipeline, puppet).tokens(PROMPT, 6))
        puppet.grant(await puppet.hear("attach"))
        for token_id in (5, 6):
            puppet.answer(await puppet.hear("frame"), token_id)
        grow = await puppet.hear("grow")
        puppet.ack(await puppet.hear("frame"))
        puppet.refuse(grow.key, "KV_EXHAUSTED")
        attach = await puppet.hear("attach")
        assert attach.key.attempt == 2
        puppet.grant(attach)
        for token_id in (7, 8, 9, 10):
            puppet.answer(await puppet.hear("frame"), token_id)
        assert await reply == [5, 6, 7, 8, 9, 10]


class SlowToAnswer(StageRpc):
    """Links are opened only when `gate` is set."""

    gate: asyncio.Event

    async def Link(
        self, request_iterator: AsyncIterator[stage_pb2.LinkRequest], context: object
    ) -> AsyncIterator[stage_pb2.LinkResponse]:
        await self.gate.wait()
        async for response in super().Link(request_iterator, context):  # type: ignore[arg-type]
            yield response


async def test_a_cancel_while_a_middle_stage_dials_leaves_nothing_behind() -> None:
    nodes = hash_nodes((2, 4))
    slow = SlowToAnswer(nodes[2].incarnation, nodes[2].rpc._status)
    slow.gate = asyncio.Event()
    nodes[2].rpc = slow
    async with running(nodes) as pipeline:
        reply = asyncio.create_task(pipeline.tokens(PROMPT, 4))
        async with asyncio.timeout(20):
            while not len(nodes[1].engine.core.table):  # noqa: ASYNC110 turns of the loop
                await asyncio.sleep(0)
            reply.cancel()
            while len(nodes[1].engine.core.table):  # noqa: ASYNC110
                await asyncio.sleep(0)
        slow.gate.set()
        # Comes down the same links, behind whatever the first one left there.
        assert await pipeline.tokens(PROMPT, 4) == expected_tokens(PROMPT, 4)
        await pipeline.until_free()
