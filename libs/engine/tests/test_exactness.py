"""Splits, chunks and batches give the same numbers as the whole model of transformers."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import transformers

from shoal_engine.blocks import SequenceKv
from shoal_engine.loading import StageOptions
from shoal_engine.sampling import SamplingSpec, SamplingState, sample
from shoal_engine.testing import (
    ARCHITECTURES,
    LAYER_COUNT,
    Chain,
    make_checkpoint,
    prompt_of,
    reference_tokens,
)

CheckpointMaker = Callable[..., Path]
SPLITS = ((0, 4), (0, 1, 4), (0, 2, 3, 4))
OPTIONS = StageOptions(kv_blocks=64)
STRICT = StageOptions(kv_blocks=64, strict_exact=True)


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_splits_and_chunks_say_what_generate_says(
    checkpoint: CheckpointMaker, architecture: str, tie: bool
) -> None:
    folder = checkpoint(architecture, tie_word_embeddings=tie)
    prompt = prompt_of(23)
    expected = reference_tokens(folder, prompt, 16)
    for cuts in SPLITS:
        chain = Chain(folder, cuts, OPTIONS)
        assert chain.greedy(prompt, 16) == expected, cuts
        assert chain.greedy(prompt, 16, chunk=5) == expected, cuts


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_agree_with_transformers(checkpoint: CheckpointMaker, architecture: str) -> None:
    folder = checkpoint(architecture, tie_word_embeddings=False)
    prompt = prompt_of(30, seed=1)
    model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.tensor([prompt])).logits[0]
    chain = Chain(folder, (0, 2, LAYER_COUNT), OPTIONS)
    kvs = chain.attach(len(prompt))
    for start, stop in ((0, 1), (1, 8), (8, 9), (9, 30)):
        logits = chain.step([(kvs, start, prompt[start:stop])])
        torch.testing.assert_close(logits[0], expected[stop - 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["MistralForCausalLM", "Gemma2ForCausalLM"])
def test_sliding_windows_cut(checkpoint: CheckpointMaker, architecture: str) -> None:
    prompt = prompt_of(23)
    narrow = Chain(checkpoint(architecture, tie_word_embeddings=False), (0, 4), OPTIONS)
    wide = Chain(
        checkpoint(architecture, tie_word_embeddings=False, sliding_window=64), (0, 4), OPTIONS
    )
    logits = [chain.step([(chain.attach(23), 0, prompt)]) for chain in (narrow, wide)]
    assert (logits[0] - logits[1]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "linear", "factor": 2.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            256,
        ),
        (
            {
                "rope_type": "longrope",
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
                "original_max_position_embeddings": 64,
            },
            64,
        ),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else "",
)
def test_rotary_variants_say_what_generate_says(
    tmp_path: Path, rope: dict[str, object], context: int
) -> None:
    parameters = {"rope_theta": 10000.0, **rope}
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM", rope_parameters=parameters)
    prompt = prompt_of(40, seed=2)
    chain = Chain(folder, (0, 2, 4), OPTIONS)
    assert chain.stages[0].shape.context_length == context
    assert chain.greedy(prompt, 12) == reference_tokens(folder, prompt, 12)


def test_phi3_longrope_keeps_its_short_frequencies(tmp_path: Path) -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
    }
    folder = make_checkpoint(
        tmp_path, "Phi3ForCausalLM", rope_parameters=rope, original_max_position_embeddings=64
    )
    prompt = prompt_of(40, seed=2)
    chain = Chain(folder, (0, 2, 4), OPTIONS)
    assert chain.stages[0].shape.context_length == 64
    assert chain.greedy(prompt, 12) == reference_tokens(folder, prompt, 12)


# Two threads on a busy machine wait for each other for seconds, hence slow.
TWO_THREADS = pytest.param(2, marks=pytest.mark.slow)


@pytest.mark.parametrize("threads", [1, TWO_THREADS])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_strict_rows_are_bitwise_independent_of_neighbours(
    checkpoint: CheckpointMaker, architecture: str, threads: int
) -> None:
    torch.set_num_threads(threads)
    # Width 50 leaves elements over for the scalar end of the activation's loop.
    folder = checkpoint(architecture, tie_word_embeddings=False, intermediate_size=50)
    chain = Chain(folder, (0, 2, LAYER_COUNT), STRICT)
    prompts = [prompt_of(length, seed=length) for length in (1, 2, 3, 17, 40)]
    follows = [prompt_of(7 - index, seed=50 + index) for index in range(len(prompts))]
    together = run_together(chain, prompts, follows)
    for prompt, follow, logits in zip(prompts, follows, together, strict=True):
        assert torch.equal(run_alone(chain, prompt, follow), logits)


@pytest.mark.parametrize("threads", [1, TWO_THREADS])
def test_rows_are_bitwise_independent_in_steps_of_four_tokens(
    checkpoint: CheckpointMaker, threads: int
) -> None:
    torch.set_num_threads(threads)
    chain = Chain(checkpoint(), (0, LAYER_COUNT), OPTIONS)
    prompts = [prompt_of(length, seed=length) for length in (4, 5, 6, 11, 30)]
    together = chain.step([(chain.attach(40), 0, prompt) for prompt in prompts])
    for index, prompt in enumerate(prompts):
        alone = chain.step([(chain.attach(40), 0, prompt)])
        assert torch.equal(alone[0], together[index])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_splits_give_the_same_bits_and_so_the_same_draws(
    checkpoint: CheckpointMaker, architecture: str
) -> None:
    folder = checkpoint(architecture, tie_word_embeddings=False)
    prompt, follow = prompt_of(19, seed=6), prompt_of(5, seed=7)
    whole = run_alone(Chain(folder, (0, LAYER_COUNT), OPTIONS), prompt, follow)
    split = run_alone(Chain(folder, (0, 1, 3, LAYER_COUNT), OPTIONS), prompt, follow)
    assert torch.equal(whole, split)
    states = [SamplingState(SamplingSpec(temperature=1.0, seed=3))] * len(whole)
    positions = range(len(prompt), len(prompt) + len(whole))
    assert sample(whole, states, positions) == sample(split, states, positions)


def test_replay_of_prompt_and_tokens_continues_alike(checkpoint: CheckpointMaker) -> None:
    prompt = prompt_of(21, seed=4)
    folder = checkpoint("Qwen3ForCausalLM")
    made = Chain(folder, (0, 4), OPTIONS).greedy(prompt, 12)
    again = Chain(folder, (0, 3, 4), OPTIONS).greedy(prompt + made[:5], 7)
    assert again == made[5:]


def run_alone(chain: Chain, prompt: Sequence[int], follow: Sequence[int]) -> torch.Tensor:
    """Logits (1 + follow, V) of a prompt and then given tokens, nobody else in the steps."""
    kvs = chain.attach(len(prompt) + len(follow))
    logits = [chain.step([(kvs, 0, prompt)])]
    for index, token in enumerate(follow):
        logits.append(chain.step([(kvs, len(prompt) + index, [token])]))
    for stage, kv in zip(chain.stages, kvs, strict=True):
        stage.pool.release(kv.blocks)
    return torch.cat(logits)


def run_together(
    chain: Chain, prompts: Sequence[list[int]], follows: Sequence[list[int]]
) -> list[torch.Tensor]:
    """The same for all sequences in shared steps; sequence i joins at step i, blocks interleave."""
    kvs = [chain.attach(0) for _ in prompts]
    longest = max(len(p) + len(f) for p, f in zip(prompts, follows, strict=True))
    for _ in range(chain.stages[0].pool.blocks_for(longest)):
        for per_stage in kvs:
            for stage, kv in zip(chain.stages, per_stage, strict=True):
                kv.blocks += stage.pool.allocate(1)
    logits: list[list[torch.Tensor]] = [[] for _ in prompts]
    for step in range(len(prompts) + max(map(len, follows)) + 1):
        rows: list[tuple[list[SequenceKv], int, Sequence[int]]] = []
        joined = []
        for index in range(min(step + 1, len(prompts))):
            ids, position = _next_ids(prompts[index], follows[index], step - index)
            if ids:
                rows.append((kvs[index], position, ids))
                joined.append(index)
        if rows:
            output = chain.step(rows)
            for row, index in enumerate(joined):
                logits[index].append(output[row : row + 1])
    for per_stage in kvs:
        for stage, kv in zip(chain.stages, per_stage, strict=True):
            stage.pool.release(kv.blocks)
    return [torch.cat(parts) for parts in logits]


def _next_ids(prompt: list[int], follow: list[int], age: int) -> tuple[list[int], int]:
    if age == 0:
        return prompt, 0
    return follow[age - 1 : age], len(prompt) + age - 1
