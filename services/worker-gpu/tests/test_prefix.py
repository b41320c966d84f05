"""Prefixes are computed once, on every stage, and never change a token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shoal_common.prefix import KEY_BYTES, PrefixKeys, prefix_root
from shoal_engine.blocks import TILE_TOKENS
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.testing import HashBackend, expected_tokens

from .conftest import Pipeline

Make = Callable[..., Awaitable[Pipeline[HashBackend]]]
PROMPT = [n % 61 for n in range(32)]
CUTS = [pytest.param((), id="1"), pytest.param((2,), id="2"), pytest.param((2, 4), id="3")]


async def reply(
    pipeline: Pipeline[HashBackend], prompt: list[int], count: int, tenant: str = ""
) -> tuple[list[int], int]:
    """Tokens, and how many prompt tokens were not computed."""
    request = pipeline.request(prompt, count)
    request.tenant = tenant
    tokens: list[int] = []
    cached = -1
    async for event in pipeline.events(request):
        tokens.extend(token.token_id for token in event.tokens.tokens)
        if event.HasField("finished"):
            cached = event.finished.cached_token_count
    return tokens, cached


@pytest.mark.parametrize("cuts", CUTS)
async def test_a_prompt_sent_again_computes_one_token(
    make_pipeline: Make, cuts: tuple[int, ...]
) -> None:
    pipeline = await make_pipeline(cuts)
    expected = expected_tokens(PROMPT, 9)
    assert await reply(pipeline, PROMPT, 9) == (expected, 0)
    for node in pipeline.nodes:
        node.backend.step_sizes.clear()
    assert await reply(pipeline, PROMPT, 9) == (expected, len(PROMPT) - 1)
    for node in pipeline.nodes:
        assert node.backend.step_sizes == [1] * 9
    await pipeline.until_free()


@pytest.mark.parametrize("cuts", CUTS)
async def test_a_second_turn_computes_only_what_is_new(
    make_pipeline: Make, cuts: tuple[int, ...]
) -> None:
    pipeline = await make_pipeline(cuts)
    answer, _ = await reply(pipeline, PROMPT, 13)
    turn = [*PROMPT, *answer, 7, 8, 9]
    computed = len(PROMPT) + len(answer) - 1
    assert await reply(pipeline, turn, 6) == (expected_tokens(turn, 6), computed // 4 * 4)


async def test_an_aborted_reply_is_not_computed_again(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((3,))
    events = pipeline.events(pipeline.request(PROMPT, 200))
    seen = 0
    async for event in events:
        seen += len(event.tokens.tokens)
        if seen >= 8:
            break
    await events.aclose()
    await pipeline.until_free()
    turn = [*PROMPT, *expected_tokens(PROMPT, 6)]
    tokens, cached = await reply(pipeline, turn, 4)
    assert tokens == expected_tokens(turn, 4)
    assert cached >= len(PROMPT) + 4


async def test_tenants_do_not_share_unless_told_to(make_pipeline: Make) -> None:
    pipeline = await make_pipeline()
    await reply(pipeline, PROMPT, 2, tenant="a")
    assert (await reply(pipeline, PROMPT, 2, tenant="b"))[1] == 0
    assert (await reply(pipeline, PROMPT, 2, tenant="a"))[1] == len(PROMPT) - 1
    shared = await make_pipeline((), Settings(block_size_tokens=4, prefix_cache_scope="fleet"))
    await reply(shared, PROMPT, 2, tenant="a")
    assert (await reply(shared, PROMPT, 2, tenant="b"))[1] == len(PROMPT) - 1


async def test_switched_off_nothing_is_reused(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((3,), Settings(block_size_tokens=4, prefix_cache=False))
    for _ in range(2):
        assert await reply(pipeline, PROMPT, 5) == (expected_tokens(PROMPT, 5), 0)
    assert [node.backend.pool.remembered_count for node in pipeline.nodes] == [0, 0]


@pytest.mark.parametrize("forgetful", [0, 1, 2])
async def test_stages_use_the_longest_prefix_that_all_of_them_hold(
    make_pipeline: Make, forgetful: int
) -> None:
    pipeline = await make_pipeline((2, 4))
    await reply(pipeline, PROMPT[:13], 1)
    await pipeline.until_free()
    pool = pipeline.nodes[forgetful].backend.pool
    kept = pool.remembered()
    await reply(pipeline, PROMPT, 1)
    await pipeline.until_free()
    for key in set(pool.remembered()) - set(kept):
        pool._evict(pool.match([key])[0])
    assert await reply(pipeline, PROMPT, 20) == (expected_tokens(PROMPT, 20), 12)
    await pipeline.until_free()


async def test_a_long_prefix_is_held_once_for_all_that_share_it(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((3,), block_count=600, context_length=2048)
    common = [n % 97 for n in range(TILE_TOKENS + 10)]
    await reply(pipeline, common, 1)
    pools = [node.backend.pool for node in pipeline.nodes]
    gate = pipeline.nodes[0].backend.gate
    gate.clear()
    prompts = [[*common, n, n + 1] for n in range(4)]
    tasks = [asyncio.create_task(reply(pipeline, prompt, 5)) for prompt in prompts]
    async with asyncio.timeout(5):
        while len(pipeline.nodes[1].engine.core.table) < len(prompts):  # noqa: ASYNC110
            await asyncio.sleep(0)
    shared = TILE_TOKENS // 4
    assert all(pool.used_count < shared + len(prompts) * 12 for pool in pools)
    gate.set()
    for task, prompt in zip(tasks, prompts, strict=True):
        tokens, cached = await task
        assert tokens == expected_tokens(prompt, 5)
        assert cached == len(common) // 4 * 4
    await pipeline.until_free()


async def test_little_kv_with_shared_prefixes_loses_nothing(make_pipeline: Make) -> None:
    pipeline = await make_pipeline((3,), block_count=20)
    prompts = [[*PROMPT[:9], n, n + 1] for n in range(5)]
    replies = await asyncio.gather(*(pipeline.tokens(prompt, 40) for prompt in prompts))
    assert replies == [expected_tokens(prompt, 40) for prompt in prompts]
    await pipeline.until_free()


async def test_metrics_count_what_was_saved(make_pipeline: Make) -> None:
    pipeline = await make_pipeline()
    for _ in range(2):
        await reply(pipeline, PROMPT, 2)
    counter = pipeline.nodes[0].metrics.prompt_tokens
    assert counter.labels("reused")._value.get() == len(PROMPT) - 1
    assert counter.labels("computed")._value.get() == len(PROMPT) + 1


def test_keys_stand_for_everything_before_them() -> None:
    root = prefix_root("rev", "float32", "", "tenant")
    keys = PrefixKeys(root, 4).of(range(12))
    assert [len(key) for key in keys] == [KEY_BYTES] * 3
    other = PrefixKeys(root, 4).of([9, *range(1, 12)])
    assert not set(keys) & set(other)
    assert PrefixKeys(root, 4).of([*range(8), 0, 0, 0, 0])[:2] == keys[:2]
    assert PrefixKeys(root, 4).of(range(11)) == keys[:2]


def test_a_growing_chain_equals_one_made_at_once() -> None:
    chain = PrefixKeys(b"root", 4)
    for stop in range(40):
        assert chain.of(range(stop)) == PrefixKeys(b"root", 4).of(range(stop))
    assert chain.of(range(9)) == PrefixKeys(b"root", 4).of(range(9))


def test_roots_differ_in_every_part() -> None:
    roots = {
        prefix_root(*parts)
        for parts in [("a", "b", "c", "d"), ("ab", "", "c", "d"), ("a", "b", "cd", "")]
    }
    assert len(roots) == 3


async def test_a_start_behind_what_a_stage_holds_is_refused(make_pipeline: Make) -> None:
    """A head that lies about the agreed position cannot make a stage read foreign KV."""
    pipeline = await make_pipeline((3,))
    engine = pipeline.nodes[0].engine
    reservations = engine.head._reservations
    real = reservations.attach

    async def lying(*args: object) -> object:
        grant = await real(*args)  # type: ignore[arg-type]
        return type(grant)(grant.block_count, 4)

    reservations.attach = lying  # type: ignore[method-assign, assignment]
    with pytest.raises(Exception, match="it starts at 4, 0 positions are held"):
        async for _ in pipeline.events(pipeline.request(PROMPT, 4)):
            pass
    await pipeline.until_free()
