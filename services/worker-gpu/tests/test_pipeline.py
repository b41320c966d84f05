"""The step loop and the stage protocol, with real gRPC between stages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shoal.worker.v1 import stage_pb2
from shoal_common.errors import (
    DeadlineExceeded,
    InvalidRequest,
    PromptTooLong,
    ShoalError,
    StageFailed,
)
from shoal_worker_gpu.errors import QueueFull, WrongEngine
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.testing import HashBackend, expected_tokens

from .conftest import Pipeline, hash_nodes, running

Make = Callable[..., Awaitable[Pipeline[HashBackend]]]
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
CUTS = [pytest.param((), id="1"), pytest.param((2,), id="2"), pytest.param((2, 4), id="3")]


async def until(is_so: Callable[[], bool]) -> None:
    """Let the loop run until `is_so`."""
    async with asyncio.timeout(5):
        while not is_so():  # noqa: ASYNC110 the engine has no event for it
            await asyncio.sleep(0)


async def drained(events: AsyncIterator[stage_pb2.GenerateResponse]) -> None:
    async for _ in events:
        pass


@pytest.mark.parametrize("cuts", CUTS)
async def test_every_split_says_the_same(make_pipeline: Make, cuts: tuple[int, ...]) -> None:
    pipeline = await make_pipeline(cuts)
    assert await pipeline.tokens(PROMPT, 40) == expected_tokens(PROMPT, 40)
    await pipeline.until_free()


@pytest.mark.parametrize("cuts", CUTS)
async def test_concurrent_generations_do_not_disturb_each_other(
    make_pipeline: Make, cuts: tuple[int, ...]
) -> None:
    pipeline = await make_pipeline(cuts, block_count=256)
    prompts = [[*PROMPT[: 1 + n % 8], n] for n in range(12)]
    replies = await asyncio.gather(*(pipeline.tokens(prompt, 20) for prompt in prompts))
    assert replies == [expected_tokens(prompt, 20) for prompt in prompts]
    await pipeline.until_free()


async def test_a_long_prompt_goes_in_chunks(make_pipeline: Make) -> None:
    settings = Settings(block_size_tokens=4, prefill_chunk_tokens=8)
    pipeline = await make_pipeline((3,), settings)
    prompt = [n % 50 for n in range(100)]
    assert await pipeline.tokens(prompt, 5) == expected_tokens(prompt, 5)
    assert max(pipeline.nodes[1].backend.step_sizes) <= 8


async def test_generations_are_batched(make_pipeline: Make) -> None:
    pipeline = await make_pipeline()
    pipeline.nodes[0].backend.gate.clear()
    tasks = [asyncio.create_task(pipeline.tokens([n + 1], 10)) for n in range(4)]
    await until(lambda: pipeline.nodes[0].engine.head.running_count == 4)
    pipeline.nodes[0].backend.gate.set()
    await asyncio.gather(*tasks)
    assert max(pipeline.nodes[0].backend.step_sizes) >= 4


@pytest.mark.parametrize("cuts", CUTS)
async def test_cancelling_frees_every_stage(make_pipeline: Make, cuts: tuple[int, ...]) -> None:
    pipeline = await make_pipeline(cuts)
    events = pipeline.events(pipeline.request(PROMPT, 200))
    async for event in events:
        if event.HasField("tokens"):
            break
    await events.aclose()
    await pipeline.until_free()
    assert await pipeline.tokens(PROMPT, 5) == expected_tokens(PROMPT, 5)


async def test_little_kv_delays_but_loses_nothing(make_pipeline: Make) -> None:
    """Room for one and a half generations: the youngest is put back and replayed."""
    pipeline = await make_pipeline((3,), block_count=14)
    prompts = [[n, n + 1, n + 2] for n in range(4)]
    replies = await asyncio.gather(*(pipeline.tokens(prompt, 40) for prompt in prompts))
    assert replies == [expected_tokens(prompt, 40) for prompt in prompts]
    await pipeline.until_free()


@pytest.mark.parametrize("cuts", CUTS)
async def test_blocks_that_are_being_freed_are_waited_for(
    make_pipeline: Make, cuts: tuple[int, ...]
) -> None:
    """Room for hardly more than one, asked for block by block: preempted again and again."""
    settings = Settings(block_size_tokens=4, grow_blocks=1)
    pipeline = await make_pipeline(cuts, settings, block_count=12)
    prompts = [[n, n + 1, n + 2] for n in range(3)]
    for _ in range(3):
        replies = await asyncio.gather(*(pipeline.tokens(prompt, 40) for prompt in prompts))
        assert replies == [expected_tokens(prompt, 40) for prompt in prompts]
    await pipeline.until_free()


async def test_a_head_waits_for_kv_that_another_head_holds() -> None:
    """Two heads share a last stage with room for one of them."""
    settings = Settings(block_size_tokens=4, grow_blocks=1)
    first, last = hash_nodes((3,), settings, block_count=12)
    second, _ = hash_nodes((3,), settings, block_count=12)
    async with running([first, last]) as one, running([second]) as two:
        two.plan.stages.append(last.stage())
        for _ in range(3):
            replies = await asyncio.gather(
                *(pipeline.tokens([n, n + 1, n + 2], 38) for n, pipeline in enumerate((one, two)))
            )
            assert replies == [expected_tokens([n, n + 1, n + 2], 38) for n in range(2)]
        await one.until_free()
        await two.until_free()


async def test_a_prompt_beyond_all_kv_is_refused(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((3,), block_count=4)
    with pytest.raises(ShoalError, match="KV blocks"):
        await pipeline.tokens([1] * 40, 4)
    await pipeline.until_free()


async def test_a_lost_stage_ends_its_generations_with_its_name(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((2, 4))
    request = pipeline.request(PROMPT, 200)
    events = pipeline.events(request)
    async for event in events:
        if event.HasField("tokens"):
            break
    await pipeline.nodes[1].stop()
    with pytest.raises(StageFailed, match="worker-1"):
        await drained(events)


async def test_a_restarted_stage_is_not_taken_for_the_old_one(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((3,))
    pipeline.plan.stages[1].incarnation = "earlier"
    with pytest.raises(StageFailed, match="worker-1"):
        await pipeline.tokens(PROMPT, 4)
    await pipeline.until_free()


async def test_a_plan_for_another_process_is_refused(make_pipeline: Make) -> None:
    pipeline = await make_pipeline()
    pipeline.plan.stages[0].incarnation = "earlier"
    with pytest.raises(WrongEngine):
        await pipeline.tokens(PROMPT, 4)


async def test_the_waiting_queue_is_bounded(make_pipeline: Make) -> None:
    settings = Settings(block_size_tokens=4, max_running=1, max_waiting=1)
    pipeline = await make_pipeline((), settings)
    backend = pipeline.nodes[0].backend
    head = pipeline.nodes[0].engine.head
    backend.gate.clear()
    running = asyncio.create_task(pipeline.tokens([1], 3))
    await until(lambda: head.running_count == 1)
    waiting = asyncio.create_task(pipeline.tokens([2], 3))
    await until(lambda: head.waiting_count == 1)
    with pytest.raises(QueueFull):
        await pipeline.tokens([3], 3)
    backend.gate.set()
    assert await running == expected_tokens([1], 3)
    assert await waiting == expected_tokens([2], 3)


async def test_time_up_ends_with_a_deadline(make_pipeline: Make) -> None:
    pipeline = await make_pipeline()
    pipeline.nodes[0].backend.gate.clear()
    request = pipeline.request(PROMPT, 4)
    request.remaining_ms = 50
    with pytest.raises(DeadlineExceeded):
        await drained(pipeline.events(request))
    pipeline.nodes[0].backend.gate.set()
    await pipeline.until_free()


async def test_a_replay_goes_on_behind_what_was_delivered(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((3,))
    whole = expected_tokens(PROMPT, 10)
    request = pipeline.request(PROMPT, 10)
    request.attempt = 2
    request.generated.ids.extend(whole[:4])
    found = []
    async for event in pipeline.events(request):
        for token in event.tokens.tokens:
            assert event.tokens.first_position == 4 + len(found)
            found.append(token.token_id)
    assert found == whole[4:]


async def test_bad_requests_hold_nothing(make_pipeline: Make) -> None:
    pipeline = await make_pipeline()
    with pytest.raises(PromptTooLong, match="300 tokens"):
        await pipeline.tokens([1] * 300, 4)
    with pytest.raises(InvalidRequest, match="no tokens"):
        await pipeline.tokens([], 4)
    with pytest.raises(InvalidRequest, match="vocabulary"):
        await pipeline.tokens([100_000], 4)
    request = pipeline.request(PROMPT, 4)
    request.sampling.temperature = -1
    with pytest.raises(InvalidRequest, match="temperature"):
        await drained(pipeline.events(request))
    await pipeline.until_free()


@pytest.mark.parametrize("seed", range(4))
async def test_any_crowd_on_any_little_kv_gets_its_tokens(make_pipeline: Make, seed: int) -> None:
    """Generations of every length that share beginnings, some cancelled, with KV for few."""
    rng = random.Random(seed)
    print("seed", seed)
    cuts = rng.choice([(), (2,), (2, 4)])
    settings = Settings(block_size_tokens=4, grow_blocks=rng.randint(1, 4))
    pipeline = await make_pipeline(cuts, settings, block_count=rng.randint(16, 24))

    async def one() -> None:
        prompt = PROMPT[: rng.randint(1, 8)] * rng.randint(1, 2)
        count = rng.randint(1, 60 - len(prompt))
        if rng.random() < 0.3:
            events = pipeline.events(pipeline.request(prompt, count))
            for _ in range(rng.randint(1, count)):
                await anext(events)
            await events.aclose()
            return
        assert await pipeline.tokens(prompt, count) == expected_tokens(prompt, count)

    await asyncio.gather(*(one() for _ in range(12)))
    await pipeline.until_free()
