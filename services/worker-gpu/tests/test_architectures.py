"""Every architecture, cut into engines with gRPC between them, says what transformers says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import stage_pb2
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import LayerRange
from shoal_engine.testing import (
    ARCHITECTURES,
    LAYER_COUNT,
    make_checkpoint,
    prompt_of,
    reference_tokens,
)
from shoal_worker_gpu.backends.torch_shard import TorchShard
from shoal_worker_gpu.settings import Settings

from .conftest import Node, Pipeline, running

TOKEN_COUNT = 12
# Unequal; one shorter than every sliding window, one longer than a chunk of prefill.
PROMPTS = [prompt_of(length, seed=length) for length in (3, 11, 23)]
SPLITS = ((0, LAYER_COUNT), (0, 2, 4), (0, 1, 3, 4))
SAMPLED = chat_pb2.SamplingSpec(temperature=1.2, top_p=0.95, repetition_penalty=1.1, seed=7)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torch_nodes(folder: Path, cuts: Sequence[int], settings: Settings) -> list[Node[TorchShard]]:
    options = StageOptions(kv_blocks=32, strict_exact=settings.strict_exact, threads=1)
    return [
        Node(
            TorchShard(load_stage(folder, LayerRange(start, stop), options), folder),
            settings,
            f"worker-{index}",
        )
        for index, (start, stop) in enumerate(pairwise(cuts))
    ]


async def generated(
    pipeline: Pipeline[TorchShard],
    prompt: Sequence[int],
    sampling: chat_pb2.SamplingSpec | None = None,
) -> list[stage_pb2.GeneratedToken]:
    """TOKEN_COUNT tokens, whatever they are, with their log probabilities if asked for."""
    request = pipeline.request(prompt, TOKEN_COUNT)
    request.ignore_eos = True
    if sampling is not None:
        request.sampling.CopyFrom(sampling)
    return [token async for event in pipeline.events(request) for token in event.tokens.tokens]


async def token_ids(
    pipeline: Pipeline[TorchShard],
    prompt: Sequence[int],
    sampling: chat_pb2.SamplingSpec | None = None,
) -> list[int]:
    return [token.token_id for token in await generated(pipeline, prompt, sampling)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_every_split_says_what_transformers_says_and_draws_the_same(
    tmp_path: Path, architecture: str
) -> None:
    """Greedy and seeded generations side by side, in 1, 2 and 3 stages."""
    # Tied embeddings are the harder case: the last stage needs the first one's tensor.
    folder = make_checkpoint(tmp_path, architecture, tie_word_embeddings=True)
    expected = [reference_tokens(folder, prompt, TOKEN_COUNT) for prompt in PROMPTS]
    drawn = None
    for cuts in SPLITS:
        nodes = torch_nodes(folder, cuts, Settings(prefill_chunk_tokens=16))
        async with running(nodes) as pipeline:
            replies = await asyncio.gather(
                *(token_ids(pipeline, prompt) for prompt in PROMPTS),
                *(token_ids(pipeline, prompt, SAMPLED) for prompt in PROMPTS),
            )
            await pipeline.until_free()
        assert replies[:3] == expected, cuts
        drawn = drawn or replies[3:]
        assert replies[3:] == drawn, cuts
    assert drawn != expected, "nothing was drawn"


async def test_neighbours_change_neither_tokens_nor_log_probabilities(tmp_path: Path) -> None:
    """Bit for bit: a sequence alone, and beside five others that come and go."""
    sampling = chat_pb2.SamplingSpec(temperature=0.8, seed=11, logprobs=True, logprob_count=5)
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM")
    nodes = torch_nodes(folder, (0, 2, 4), Settings(strict_exact=True, prefill_chunk_tokens=16))
    async with running(nodes) as pipeline:
        alone = await generated(pipeline, PROMPTS[1], sampling)
        others = [prompt_of(length, seed=length) for length in (2, 5, 9, 17, 31)]
        replies = await asyncio.gather(
            *(generated(pipeline, prompt, sampling) for prompt in others[:3]),
            generated(pipeline, PROMPTS[1], sampling),
            *(generated(pipeline, prompt, sampling) for prompt in others[3:]),
        )
    assert len(alone) == TOKEN_COUNT
    assert all(len(token.top) == 5 and token.HasField("logprob") for token in alone)
    assert [token.SerializeToString() for token in replies[3]] == [
        token.SerializeToString() for token in alone
    ]
