"""Stages that die, hang and come back: the same tokens, in order, each once, and no KV left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.errors import ShoalError, StageFailed
from shoal_common.rpc import RpcChannel, locator, translated
from shoal_common.testing import FakeClock
from shoal_common.testing.waiting import eventually
from shoal_worker_gpu.engine_child import note_load
from shoal_worker_gpu.grammars import Grammars
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.testing import HashBackend, expected_tokens

from .cable import Cable
from .conftest import LAYER_COUNT, Node, Pipeline, hash_nodes, running
from .puppet import Puppet

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
ACK_TIMEOUT_S = 0.8
SILENCE_S = 1.6
SETTINGS = Settings(block_size_tokens=4, grow_blocks=1, lease_s=1.0, link_timeout_s=2.0)


class Wired:
    """A node behind a cable of its own, which can be killed or made to hang."""

    def __init__(self, node: Node[HashBackend], cable: Cable) -> None:
        self.node = node
        self.cable = cable
        self.is_dead = False
        self.is_frozen = False

    @property
    def stage(self) -> pipeline_pb2.PipelineStage:
        stage = self.node.stage()
        stage.locator = locator(self.cable.address)
        return stage

    async def kill(self) -> None:
        self.is_dead = True
        self.cable.cut()
        await self.node.stop()

    def freeze(self) -> None:
        self.is_frozen = True
        self.cable.freeze()

    def thaw(self) -> None:
        self.is_frozen = False
        self.cable.thaw()


@asynccontextmanager
async def wired(nodes: Sequence[Node[HashBackend]]) -> AsyncIterator[list[Wired]]:
    """The nodes, started, each behind its cable."""
    async with AsyncExitStack() as stack:
        found = []
        for node in nodes:
            await node.start()
            stack.push_async_callback(node.stop)
            cable = await stack.enter_async_context(Cable(node.server.address))
            found.append(Wired(node, cable))
        yield found


class Fleet:
    """Several nodes for each range of layers, and pipelines of those not known to be lost."""

    def __init__(self, rng: random.Random, wired: Sequence[Wired]) -> None:
        self.rng = rng
        self.nodes = wired
        self.plan_count = 0

    def plan(self, lost: set[str]) -> list[Wired]:
        """One living node for each range, none of `lost` if that can be."""
        chosen = []
        for start in sorted({w.node.backend.layer_start for w in self.nodes}):
            alive = [w for w in self.nodes if w.node.backend.layer_start == start and not w.is_dead]
            unsuspected = [w for w in alive if w.node.name not in lost]
            chosen.append(self.rng.choice(unsuspected or alive))
        return chosen

    def may_lose(self, wired: Wired) -> bool:
        """Another node of the same range would still serve."""
        start = wired.node.backend.layer_start
        return any(
            w.node.backend.layer_start == start and not w.is_dead and not w.is_frozen
            for w in self.nodes
            if w is not wired
        )

    async def strike(self, stages: Sequence[Wired]) -> None:
        """Kill or freeze one of the stages; who was frozen before comes back."""
        for zombie in [w for w in self.nodes if w.is_frozen]:
            zombie.thaw()
        victims = [w for w in stages if not w.is_dead and self.may_lose(w)]
        if not victims:
            return
        victim = self.rng.choice(victims)
        if self.rng.random() < 0.5:
            victim.freeze()
        else:
            await victim.kill()


async def reply(fleet: Fleet, prompt: Sequence[int], count: int, strikes: set[int]) -> list[int]:
    """What a driver gets: attempts until one ends well. Strikes at these counts of tokens."""
    tokens: list[int] = []
    lost: set[str] = set()
    for attempt in range(1, 100):
        stages = fleet.plan(lost)
        request = stage_pb2.GenerateRequest(
            request_id="r",
            pipeline=pipeline_pb2.Pipeline(
                pipeline_id=f"p{fleet.rng.randrange(2)}",
                revision=1,
                model="m",
                stages=[w.stage for w in stages],
            ),
            attempt=attempt,
            token_ids=stage_pb2.TokenIds(ids=prompt),
            generated=stage_pb2.TokenIds(ids=tokens),
            max_tokens=count,
            keep_alive_ms=int(SILENCE_S * 250),
        )
        try:
            async with aclosing(events(stages[0], request)) as answers:
                async for event in answers:
                    for token in event.tokens.tokens:
                        assert event.tokens.first_position == len(tokens), "in order, each once"
                        tokens.append(token.token_id)
                    while strikes and min(strikes) <= len(tokens):
                        strikes.discard(min(strikes))
                        await fleet.strike(stages)
                    if event.HasField("finished"):
                        return tokens
        except (ShoalError, TimeoutError) as err:
            lost.add(getattr(err, "node_id", "") or stages[0].node.name)
    raise AssertionError("a hundred attempts")


async def events(
    head: Wired, request: stage_pb2.GenerateRequest
) -> AsyncGenerator[stage_pb2.GenerateResponse, None]:
    """A head's answers. Raises TimeoutError when it is silent."""
    async with RpcChannel(head.cable.address) as channel:
        call = stage_pb2_grpc.StageServiceStub(channel.channel).Generate(request)
        try:
            while True:
                with translated():
                    async with asyncio.timeout(SILENCE_S):
                        event = await call.read()
                if not isinstance(event, stage_pb2.GenerateResponse):
                    return
                yield event
        finally:
            call.cancel()


async def until_free(nodes: Sequence[Wired]) -> None:
    """Wait until no living stage holds a sequence or a block."""
    async with asyncio.timeout(20):
        for node in (wired.node for wired in nodes if not wired.is_dead):
            total = node.backend.blocks_total
            core, backend = node.engine.core, node.backend
            # Leases end on the real clock, and no event tells of it.
            await eventually(lambda: not len(core.table) and backend.blocks_free == total)  # noqa: B023


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_lost_whenever_the_tokens_are_those_of_an_undisturbed_run(
    seed: int,
) -> None:
    """Crowds on little KV; stages are killed, hang, and come back as if nothing had been."""
    rng = random.Random(seed)
    print("seed", seed)
    cuts = rng.choice([(3,), (2, 4), (1, 3, 5)])
    copies = [
        hash_nodes(cuts, SETTINGS, block_count=rng.randint(24, 64), ack_timeout_s=ACK_TIMEOUT_S)
        for _ in range(3)
    ]
    for number, nodes in enumerate(copies):
        for node in nodes:
            node.rename(f"{node.name}-{number}")
    async with wired([node for nodes in copies for node in nodes]) as nodes:
        fleet = Fleet(rng, nodes)

        async def one() -> None:
            prompt = PROMPT[: rng.randint(1, 8)] * rng.randint(1, 3)
            count = rng.randint(5, 40)
            strikes = {rng.randint(0, count) for _ in range(rng.randint(0, 2))}
            assert await reply(fleet, prompt, count, strikes) == expected_tokens(prompt, count)

        await asyncio.gather(*(one() for _ in range(4)))
        for node in nodes:
            node.thaw()
        await until_free(nodes)


@pytest.mark.parametrize("hung", [1, 2, 3])
async def test_a_stage_that_hangs_is_named_and_all_others_free_their_kv(hung: int) -> None:
    nodes = hash_nodes((1, 3, 5), SETTINGS, ack_timeout_s=ACK_TIMEOUT_S)
    async with wired(nodes) as stages:
        plan = pipeline_pb2.Pipeline(pipeline_id="p", stages=[w.stage for w in stages])
        request = stage_pb2.GenerateRequest(
            request_id="r",
            pipeline=plan,
            attempt=1,
            token_ids=stage_pb2.TokenIds(ids=PROMPT),
            max_tokens=200,
            keep_alive_ms=100,
        )

        async def until_lost() -> None:
            async for event in events(stages[0], request):
                if event.tokens.first_position == 5:
                    stages[hung].freeze()

        with pytest.raises(StageFailed, match=f"worker-{hung}.*no receipt within"):
            await until_lost()
        await until_free([w for w in stages if w is not stages[hung]])
        stages[hung].thaw()
        await until_free(stages)


async def test_who_waits_for_a_lost_pipeline_does_not_wait_in_vain() -> None:
    settings = Settings(block_size_tokens=4, max_running=1)
    async with running(hash_nodes((3,), settings)) as pipeline:
        first = pipeline.events(pipeline.request(PROMPT, 200))
        async for event in first:
            if event.HasField("tokens"):
                break
        waiting = asyncio.create_task(pipeline.tokens([1, 2], 4))
        head = pipeline.nodes[0].engine.head
        async with asyncio.timeout(20):
            while not head.waiting_count:  # noqa: ASYNC110 turns of the loop
                await asyncio.sleep(0)
        await pipeline.nodes[1].stop()
        with pytest.raises(StageFailed, match="worker-1"):
            await waiting
        with pytest.raises(StageFailed, match="worker-1"):
            await drained(first)


async def drained(events: AsyncIterator[stage_pb2.GenerateResponse]) -> None:
    async for _ in events:
        pass


async def test_pipelines_of_one_head_may_end_at_the_same_stage() -> None:
    """Results come on one stream, whichever way the rows went."""
    first, middle, last = hash_nodes((2, 4), SETTINGS)
    other = hash_nodes((2, 4), SETTINGS)[1]
    async with running([first, middle, last]) as one, running([other]):
        two = Pipeline([first, other, last])
        two.plan.pipeline_id = "other"
        replies = await asyncio.gather(
            *(p.tokens([n, n + 1], 30) for n in range(3) for p in (one, two))
        )
        assert replies == [expected_tokens([n, n + 1], 30) for n in range(3) for _ in range(2)]
        await one.until_free()
        await two.close()


async def test_a_late_result_is_taken_for_no_other_step() -> None:
    """The last stage is lost, comes back, and says then what it had computed before."""
    head = Node(HashBackend(0, 3, LAYER_COUNT), SETTINGS, "head", ack_timeout_s=ACK_TIMEOUT_S)
    async with Puppet(3, LAYER_COUNT).running() as puppet, running([head]) as pipeline:
        pipeline.plan.stages.append(puppet.stage())
        lost = asyncio.create_task(pipeline.tokens(PROMPT, 4))
        puppet.grant(await puppet.hear("attach"))
        late = await puppet.hear("frame")
        with pytest.raises(StageFailed, match="no receipt"):
            await lost
        reply = asyncio.create_task(pipeline.tokens(PROMPT, 3))
        puppet.grant(await puppet.hear("attach"))
        frame = await puppet.hear("frame")
        puppet.answer(late, 99)
        puppet.answer(frame, 5)
        for token_id in (6, 7):
            puppet.answer(await puppet.hear("frame"), token_id)
        assert await reply == [5, 6, 7]


async def test_a_row_that_was_not_in_the_step_is_not_believed() -> None:
    head = Node(HashBackend(0, 3, LAYER_COUNT), SETTINGS, "head")
    async with Puppet(3, LAYER_COUNT).running() as puppet, running([head]) as pipeline:
        pipeline.plan.stages.append(puppet.stage())
        reply = asyncio.create_task(pipeline.tokens(PROMPT, 2))
        puppet.grant(await puppet.hear("attach"))
        frame = await puppet.hear("frame")
        row = frame.rows[0]
        forged = stage_pb2.Frame()
        forged.CopyFrom(frame)
        for attempt, position in ((row.key.attempt + 1, row.position), (row.key.attempt, 40)):
            forged_row = forged.rows.add(position=position, count=1)
            forged_row.key.CopyFrom(row.key)
            forged_row.key.attempt = attempt
        del forged.rows[0]
        forged.rows.append(row)
        puppet.answer(forged, 5)
        puppet.answer(await puppet.hear("frame"), 6)
        assert await reply == [5, 6]


async def test_a_sequence_that_a_stage_drops_without_a_word_ends_by_name() -> None:
    clock = FakeClock()
    head = Node(HashBackend(0, 3, LAYER_COUNT), SETTINGS, "head", clock=clock, ack_timeout_s=60)
    async with Puppet(3, LAYER_COUNT).running() as puppet, running([head]) as pipeline:
        pipeline.plan.stages.append(puppet.stage())
        reply = asyncio.create_task(pipeline.tokens(PROMPT, 2))
        puppet.grant(await puppet.hear("attach"))
        puppet.answer(stage_pb2.Frame(step_id=(await puppet.hear("frame")).step_id), 5)
        for _ in range(40):
            await asyncio.wait([reply], timeout=0.02)
            await clock.advance(0.25)
        with pytest.raises(StageFailed, match=r"puppet.*without a word"):
            await reply


async def test_a_head_whose_own_step_is_late_blames_nobody_else() -> None:
    clock = FakeClock()
    backend = HashBackend(0, 3, LAYER_COUNT)
    head = Node(backend, SETTINGS, "head", clock=clock, ack_timeout_s=60)
    async with Puppet(3, LAYER_COUNT).running() as puppet, running([head]) as pipeline:
        pipeline.plan.stages.append(puppet.stage())
        pipeline.plan.predicted_step_us = 1000
        backend.gate.clear()
        reply = asyncio.create_task(pipeline.tokens(PROMPT, 2))
        puppet.grant(await puppet.hear("attach"))
        await eventually(lambda: head.engine.head.running_count == 1, 10)
        await clock.advance(4.0)
        with pytest.raises(StageFailed, match=r"head.*no progress"):
            await reply


async def test_an_engine_that_hangs_is_not_ready_and_keeps_nobody_waiting() -> None:
    """What computes, what waits and what comes is told; when its step has ended, it serves."""
    clock = FakeClock()
    settings = SETTINGS.model_copy(update={"max_running": 1})
    node = Node(HashBackend(0, LAYER_COUNT, LAYER_COUNT), settings, "stuck", clock=clock)
    status = pipeline_pb2.EngineStatus(state=pipeline_pb2.ENGINE_STATE_READY)
    async with running([node]) as pipeline:
        head = node.engine.head
        node.backend.gate.clear()
        replies = [asyncio.create_task(pipeline.tokens(PROMPT, 2)) for _ in range(2)]
        await eventually(lambda: (head.running_count, head.waiting_count) == (1, 1), 10)
        await clock.advance(29.0)
        note_load(node.engine, status)
        assert status.state == pipeline_pb2.ENGINE_STATE_READY
        await clock.advance(2.0)
        note_load(node.engine, status)
        assert status.state == pipeline_pb2.ENGINE_STATE_FAILED
        assert status.detail.startswith("STEP_HANGS: ")
        for reply in (*replies, pipeline.tokens(PROMPT, 2)):
            with pytest.raises(StageFailed, match="stuck"):
                await reply
        node.backend.gate.set()
        await eventually(lambda: not node.engine.core.is_hung, 10)
        note_load(node.engine, status)
        assert (status.state, status.detail) == (pipeline_pb2.ENGINE_STATE_READY, "")
        assert await pipeline.tokens(PROMPT, 2) == expected_tokens(PROMPT, 2)
        await pipeline.until_free()


async def test_a_head_that_waits_says_that_it_lives() -> None:
    async with running(hash_nodes((), SETTINGS)) as pipeline:
        backend = pipeline.nodes[0].backend
        backend.gate.clear()
        request = pipeline.request(PROMPT, 3)
        request.keep_alive_ms = 5
        alive_count, found = 0, []
        async for event in pipeline.events(request):
            alive_count += event.HasField("alive")
            if alive_count == 3:
                backend.gate.set()
            found += [token.token_id for token in event.tokens.tokens]
        assert alive_count >= 3
        assert found == expected_tokens(PROMPT, 3)


async def test_a_head_that_judges_a_grammar_says_that_it_lives() -> None:
    nodes = hash_nodes((), SETTINGS)
    async with running(nodes) as pipeline:
        judged = asyncio.Event()

        class Slow(Grammars):
            async def prepared(self, request: stage_pb2.GenerateRequest) -> None:
                await judged.wait()

        nodes[0].engine.head._grammars = Slow(nodes[0].backend)
        request = pipeline.request(PROMPT, 2)
        request.keep_alive_ms = 5
        found = []
        async for event in pipeline.events(request):
            found.append(event.WhichOneof("event"))
            if found == ["alive"] * 3:
                judged.set()
        assert found[:3] == ["alive"] * 3
        assert found[-1] == "finished"


@pytest.mark.parametrize(
    ("generated", "stop_ids", "reason"),
    [
        ([7, 8, 9], [], stage_pb2.FINISH_REASON_LENGTH),
        ([7, 2], [2], stage_pb2.FINISH_REASON_STOP),
    ],
)
async def test_a_replay_of_a_whole_reply_ends_at_once(
    generated: list[int], stop_ids: list[int], reason: stage_pb2.FinishReason
) -> None:
    """Its first pipeline died between the last token and the word that it was the last."""
    async with running(hash_nodes((3,), SETTINGS)) as pipeline:
        request = pipeline.request(PROMPT, 3)
        request.attempt = 2
        request.generated.ids.extend(generated)
        request.stop_token_ids.extend(stop_ids)
        found = [event async for event in pipeline.events(request)]
        assert [event.WhichOneof("event") for event in found] == ["finished"]
        assert found[0].finished.reason == reason
        assert found[0].finished.generated_token_count == len(generated)
