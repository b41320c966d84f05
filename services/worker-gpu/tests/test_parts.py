"""Stages may run a part of an engine's layers: the same tokens, with KV of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shoal.worker.v1 import stage_pb2
from shoal_common.errors import InvalidRequest, ShoalError
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import LayerRange
from shoal_engine.testing import make_checkpoint, prompt_of, reference_tokens
from shoal_worker_gpu.backends.base import Backend
from shoal_worker_gpu.backends.torch_shard import TorchShard
from shoal_worker_gpu.errors import WrongEngine
from shoal_worker_gpu.sequence import SequenceKey
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.testing import HashBackend, expected_tokens

from .conftest import LAYER_COUNT, Node, Pipeline

RANGES = {"a": (0, 4), "b": (2, 6), "c": (0, 6)}
# Which engines, and where they are joined.
PLANS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "0:3+3:6": ("ab", (0, 3, 6)),
    "0:2+2:6": ("ab", (0, 2, 6)),
    "0:4+4:6": ("ab", (0, 4, 6)),
    "whole head": ("cb", (0, 3, 6)),
    "0:6": ("c", (0, 6)),
}
PROMPT = [n % 61 for n in range(32)]


class Fleet:
    """The three engines, and pipelines over parts of them."""

    def __init__(self, nodes: dict[str, Node[Any]], stack: AsyncExitStack) -> None:
        self.nodes = nodes
        self._stack = stack

    def joined(self, name: str, cuts: tuple[int, ...] = ()) -> Pipeline[Any]:
        """The pipeline of that name in PLANS; joined at `cuts` where they are given."""
        engines, own_cuts = PLANS[name]
        pipeline = Pipeline([self.nodes[engine] for engine in engines])
        stages = zip(pipeline.plan.stages, pairwise(cuts or own_cuts), strict=True)
        for stage, (start, stop) in stages:
            stage.layer_start, stage.layer_stop = start, stop
        self._stack.push_async_callback(pipeline.close)
        return pipeline


@asynccontextmanager
async def started(backends: Mapping[str, Backend], settings: Settings) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        nodes = {name: Node(backend, settings, name) for name, backend in backends.items()}
        for node in nodes.values():
            await node.start()
            stack.push_async_callback(node.stop)
        yield Fleet(nodes, stack)


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """Tokens are hashes; KV that was written by other layers is not read."""
    backends = {
        name: HashBackend(start, stop, LAYER_COUNT, block_count=256)
        for name, (start, stop) in RANGES.items()
    }
    async with started(backends, Settings(block_size_tokens=4)) as made:
        yield made


@asynccontextmanager
async def real_fleet(folder: Path) -> AsyncIterator[Fleet]:
    options = StageOptions(kv_blocks=64, threads=1)
    backends = {
        name: TorchShard(load_stage(folder, LayerRange(*layers), options), folder)
        for name, layers in RANGES.items()
    }
    async with started(backends, Settings()) as made:
        yield made


async def reply(
    pipeline: Pipeline[Any], prompt: list[int], count: int = 12
) -> tuple[list[int], int]:
    """Tokens, whatever they are, and how many prompt tokens were not computed."""
    request = pipeline.request(prompt, count)
    request.ignore_eos = True
    tokens: list[int] = []
    async for event in pipeline.events(request):
        tokens.extend(token.token_id for token in event.tokens.tokens)
        if event.HasField("finished"):
            return tokens, event.finished.cached_token_count
    raise AssertionError("it never finished")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Gemma2ForCausalLM"])
async def test_parts_joined_anywhere_say_what_the_whole_model_says(
    tmp_path: Path, architecture: str
) -> None:
    folder = make_checkpoint(tmp_path, architecture, num_hidden_layers=LAYER_COUNT)
    prompts = [prompt_of(length, seed=length) for length in (5, 37)]
    expected = [reference_tokens(folder, prompt, 12) for prompt in prompts]
    async with real_fleet(folder) as fleet:
        pipelines = [fleet.joined(name) for name in PLANS]
        for is_known in (False, True):
            for pipeline in pipelines:
                for prompt, tokens in zip(prompts, expected, strict=True):
                    # Blocks of 16 are remembered when they are full.
                    held = len(prompt) // 16 * 16 if is_known else 0
                    assert await reply(pipeline, prompt) == (tokens, held)


async def test_different_parts_of_an_engine_run_beside_each_other(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "Qwen2ForCausalLM", num_hidden_layers=LAYER_COUNT)
    prompts = {
        name: [prompt_of(8 + 7 * n, seed=n) for n in range(2)] + [prompt_of(40, seed=9)]
        for name in PLANS
    }
    async with real_fleet(folder) as fleet:
        for _ in range(2):
            asked = [(fleet.joined(name), prompt) for name in PLANS for prompt in prompts[name]]
            replies = await asyncio.gather(*(reply(*each) for each in asked))
            for (_, prompt), (tokens, _) in zip(asked, replies, strict=True):
                assert tokens == reference_tokens(folder, prompt, 12)


async def test_kv_of_one_part_is_no_hit_for_another(fleet: Fleet) -> None:
    expected = expected_tokens(PROMPT, 12)
    for name in PLANS:
        assert await reply(fleet.joined(name), PROMPT) == (expected, 0), name
    for name in PLANS:
        assert await reply(fleet.joined(name), PROMPT) == (expected, len(PROMPT) - 1), name
    for node in fleet.nodes.values():
        pool = node.backend.pool
        assert pool.free_count == pool.block_count


async def test_many_heads_over_many_parts_disturb_nobody(fleet: Fleet) -> None:
    asked = [(fleet.joined(name), [*PROMPT[: 4 + n], n]) for n in range(6) for name in PLANS]
    replies = await asyncio.gather(*(reply(*each, 20) for each in asked))
    for (_, prompt), (tokens, _) in zip(asked, replies, strict=True):
        assert tokens == expected_tokens(prompt, 20)


async def test_rows_of_one_part_share_a_step(fleet: Fleet) -> None:
    pipeline = fleet.joined("0:3+3:6")
    gate = fleet.nodes["a"].backend.gate
    gate.clear()
    tasks = [asyncio.create_task(reply(pipeline, [n + 1])) for n in range(4)]
    head = fleet.nodes["a"].engine.head
    async with asyncio.timeout(5):
        while head.running_count < 4:  # noqa: ASYNC110 the engine has no event for it
            await asyncio.sleep(0)
    gate.set()
    for number, task in enumerate(tasks):
        assert (await task)[0] == expected_tokens([number + 1], 12)
    assert max(fleet.nodes["b"].backend.step_sizes) > 1


@pytest.mark.parametrize(
    ("name", "cuts", "error"),
    [
        ("0:3+3:6", (0, 5, 6), WrongEngine),  # a ends at 4.
        ("0:3+3:6", (0, 1, 6), ShoalError),  # b begins at 2.
        ("0:3+3:6", (1, 3, 6), InvalidRequest),
        ("0:3+3:6", (0, 3, 5), InvalidRequest),
        ("0:3+3:6", (0, 0, 6), InvalidRequest),
        ("0:6", (0, 5), InvalidRequest),
    ],
)
async def test_ranges_beyond_an_engine_are_refused(
    fleet: Fleet, name: str, cuts: tuple[int, ...], error: type[ShoalError]
) -> None:
    with pytest.raises(error):
        await reply(fleet.joined(name, cuts), PROMPT)
    for node in fleet.nodes.values():
        assert len(node.engine.core.table) == 0


async def test_a_first_stage_without_the_first_layer_is_refused(fleet: Fleet) -> None:
    pipeline = Pipeline([fleet.nodes["b"]])
    try:
        with pytest.raises(WrongEngine):
            await reply(pipeline, PROMPT)
    finally:
        await pipeline.close()


async def test_an_engine_is_no_two_stages_of_one_pipeline(fleet: Fleet) -> None:
    pipeline = fleet.joined("0:3+3:6")
    pipeline.plan.stages[1].incarnation = pipeline.plan.stages[0].incarnation
    pipeline.plan.stages[1].locator = pipeline.plan.stages[0].locator
    with pytest.raises(InvalidRequest, match="twice"):
        await reply(pipeline, PROMPT)


@pytest.mark.parametrize(
    ("start", "stop", "route_start"), [(0, 6, None), (3, 3, None), (3, 5, None), (3, 5, 4)]
)
async def test_attaches_with_impossible_ranges_are_refused(
    fleet: Fleet, start: int, stop: int, route_start: int | None
) -> None:
    link = fleet.nodes["a"].engine.links
    stage = fleet.nodes["b"].stage()
    attach = stage_pb2.Attach(
        key=stage_pb2.SequenceKey(sequence=1, attempt=1),
        head_incarnation="h",
        layer_start=start,
        layer_stop=stop,
        blocks_wanted=1,
        lease_ms=1000,
    )
    if route_start is not None:
        attach.route.add(layer_start=route_start, layer_stop=6)
    opened = await link.get(stage)
    with pytest.raises(ShoalError, match="layer"):
        await opened.ask(SequenceKey(1, 1), stage_pb2.LinkRequest(attach=attach), 5.0)
    assert len(fleet.nodes["b"].engine.core.table) == 0
