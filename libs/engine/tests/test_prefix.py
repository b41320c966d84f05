"""Reused prefixes and scattered blocks give the tokens, and the bits, of the plain path."""

from collections.abc import Sequence

import pytest
import torch

from shoal_engine.blocks import TILE_TOKENS, SequenceKv
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import LayerRange
from shoal_engine.stage import Row, Stage, StageBatch
from shoal_engine.testing import LAYER_COUNT, prompt_of

from .conftest import CheckpointMaker

CONTEXT = 3 * TILE_TOKENS
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Gemma2ForCausalLM")


def load(checkpoint: CheckpointMaker, architecture: str = "LlamaForCausalLM") -> Stage:
    folder = checkpoint(architecture, max_position_embeddings=CONTEXT)
    return load_stage(folder, LayerRange(0, LAYER_COUNT), StageOptions(kv_blocks=400))


@pytest.fixture(params=ARCHITECTURES)
def stage(request: pytest.FixtureRequest, checkpoint: CheckpointMaker) -> Stage:
    return load(checkpoint, request.param)


def run(stage: Stage, kv: SequenceKv, position: int, ids: Sequence[int]) -> torch.Tensor:
    batch = StageBatch([Row(kv, position, len(ids))], token_ids=torch.tensor(list(ids)))
    logits = stage.forward(batch).logits
    assert logits is not None
    stage.pool.copied(kv)
    return logits[0]


def greedy(stage: Stage, kv: SequenceKv, prompt: Sequence[int], count: int) -> list[int]:
    """Tokens behind `prompt`, of which `kv` holds the beginning."""
    made = [int(run(stage, kv, kv.length, prompt[kv.length :]).argmax())]
    while len(made) < count:
        made.append(int(run(stage, kv, kv.length, made[-1:]).argmax()))
    return made


def keys_of(prompt: Sequence[int], size: int) -> list[bytes]:
    return [bytes(prompt[:stop]) for stop in range(size, len(prompt) + 1, size)]


@pytest.mark.parametrize("length", [16, 37, TILE_TOKENS, TILE_TOKENS + 48])
def test_a_reused_prefix_gives_the_same_tokens(stage: Stage, length: int) -> None:
    prompt = prompt_of(length, seed=length)
    keys = keys_of(prompt, 16)
    blocks = stage.pool.blocks_for(length + 12)
    plain = stage.pool.attach(blocks)
    expected = greedy(stage, plain, prompt, 12)
    stage.pool.detach(plain, keys)
    for _ in range(2):
        again = stage.pool.attach(blocks, keys, position_max=length - 1)
        assert again.length == min(length - 1, length // 16 * 16)
        assert greedy(stage, again, prompt, 12) == expected
        stage.pool.detach(again, keys)
    assert stage.pool.used_count == 0


def test_a_shared_prefix_serves_different_endings_at_once(stage: Stage) -> None:
    common = prompt_of(TILE_TOKENS + 40, seed=1)
    prompts = [common + prompt_of(9 + n, seed=2 + n) for n in range(3)]
    alone = []
    for prompt in prompts:
        kv = stage.pool.attach(40)
        alone.append(greedy(stage, kv, prompt, 8))
        stage.pool.detach(kv)
    first = stage.pool.attach(40)
    run(stage, first, 0, common)
    stage.pool.remember(first, keys_of(common, 16))
    kvs = [stage.pool.attach(40, keys_of(p, 16), len(p) - 1) for p in prompts]
    assert all(kv.shared_count == TILE_TOKENS // 16 for kv in kvs)
    together = [greedy(stage, kv, p, 8) for kv, p in zip(kvs, prompts, strict=True)]
    assert together == alone


def test_bits_do_not_depend_on_where_blocks_lie(checkpoint: CheckpointMaker) -> None:
    stage = load(checkpoint)
    prompt = prompt_of(2 * TILE_TOKENS + 100, seed=5)
    follow = prompt_of(20, seed=6)
    count = stage.pool.blocks_for(len(prompt) + len(follow))
    size = stage.pool.block_size_tokens
    tidy = SequenceKv(list(range(count)), 0, size)
    scattered = SequenceKv(list(range(400 - 1, 400 - 2 * count, -2)), 0, size)
    for start in range(0, len(prompt), 128):
        chunk = prompt[start : start + 128]
        assert torch.equal(run(stage, tidy, start, chunk), run(stage, scattered, start, chunk))
    for index, token in enumerate(follow):
        position = len(prompt) + index
        logits = run(stage, tidy, position, [token])
        assert torch.equal(logits, run(stage, scattered, position, [token]))


def test_tiled_decoding_is_as_near_to_one_piece_as_float32_allows(
    checkpoint: CheckpointMaker,
) -> None:
    stage = load(checkpoint)
    prompt = prompt_of(2 * TILE_TOKENS + 100, seed=8)
    kv = stage.pool.sequence(len(prompt) + 4)
    whole = run(stage, kv, 0, prompt)
    kv.length = len(prompt) - 1
    torch.testing.assert_close(run(stage, kv, kv.length, prompt[-1:]), whole, rtol=1e-4, atol=1e-4)
