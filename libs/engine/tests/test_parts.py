"""A part of a stage's layers is a stage of its own, to the last bit."""

import pytest
import torch

from shoal_engine.blocks import SequenceKv
from shoal_engine.errors import InvalidBatch
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import LayerRange
from shoal_engine.stage import Row, Stage, StageBatch
from shoal_engine.testing import ARCHITECTURES, LAYER_COUNT, VOCAB_SIZE, prompt_of

from .conftest import CheckpointMaker

WHOLE = LayerRange(0, LAYER_COUNT)


def stage_of(
    checkpoint: CheckpointMaker, architecture: str, layers: LayerRange, quantization: str = "auto"
) -> Stage:
    options = StageOptions(kv_blocks=16, quantization=quantization)
    return load_stage(checkpoint(architecture), layers, options)


def run(
    stage: Stage, kv: SequenceKv, given: torch.Tensor, layers: LayerRange | None = None
) -> torch.Tensor:
    """One row behind what `kv` holds: hidden rows, or logits from the last layer on."""
    batch = StageBatch(
        [Row(kv, kv.length, given.shape[0])],
        token_ids=given if given.dtype is torch.int64 else None,
        hidden=None if given.dtype is torch.int64 else given,
        layers=layers,
    )
    output = stage.forward(batch)
    result = output.logits if output.hidden is None else output.hidden
    assert result is not None
    return result


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_parts_joined_are_the_whole(
    checkpoint: CheckpointMaker, architecture: str, cut: int
) -> None:
    whole = stage_of(checkpoint, architecture, WHOLE)
    late = stage_of(checkpoint, architecture, LayerRange(1, LAYER_COUNT))
    first, last = LayerRange(0, cut), LayerRange(cut, LAYER_COUNT)
    kvs = [stage.pool.sequence(24) for stage in (whole, whole, late)]
    for ids in (torch.tensor(prompt_of(20)), torch.tensor([5]), torch.tensor([7])):
        expected = run(whole, kvs[0], ids)
        joined = run(late, kvs[2], run(whole, kvs[1], ids, first), last)
        assert torch.equal(joined, expected)
    assert [kv.length for kv in kvs] == [22] * 3


def test_a_part_in_the_middle_gives_hidden_rows_and_the_last_one_logits(
    checkpoint: CheckpointMaker,
) -> None:
    whole = stage_of(checkpoint, "LlamaForCausalLM", WHOLE)
    hidden = run(whole, whole.pool.sequence(4), torch.randn(4, 32), LayerRange(1, 3))
    assert hidden.shape == (4, 32)
    logits = run(whole, whole.pool.sequence(4), torch.randn(4, 32), LayerRange(3, 4))
    assert logits.shape == (1, VOCAB_SIZE)


def test_parts_of_an_int8_stage_share_its_weights(checkpoint: CheckpointMaker) -> None:
    whole = stage_of(checkpoint, "Qwen2ForCausalLM", WHOLE, quantization="int8")
    ids = torch.tensor(prompt_of(9))
    expected = run(whole, whole.pool.sequence(9), ids)
    hidden = run(whole, whole.pool.sequence(9), ids, LayerRange(0, 3))
    assert torch.equal(run(whole, whole.pool.sequence(9), hidden, LayerRange(3, 4)), expected)


def test_copies_are_made_for_the_layers_that_run(checkpoint: CheckpointMaker) -> None:
    stage = stage_of(checkpoint, "LlamaForCausalLM", WHOLE)
    part = LayerRange(1, 3)
    hidden = torch.randn(17, 32)
    first = stage.pool.attach(2)
    run(stage, first, hidden[:16], part)
    expected = run(stage, first, hidden[16:], part)
    stage.pool.detach(first, [b"key"])
    again = stage.pool.attach(2, [b"key"], position_max=16)
    assert again.copies
    assert torch.equal(run(stage, again, hidden[16:], part), expected)


@pytest.mark.parametrize("layers", [LayerRange(0, 2), LayerRange(2, 4), LayerRange(0, 4)])
def test_layers_that_the_stage_does_not_hold_are_refused(
    checkpoint: CheckpointMaker, layers: LayerRange
) -> None:
    stage = stage_of(checkpoint, "LlamaForCausalLM", LayerRange(1, 3))
    kv = stage.pool.sequence(4)
    with pytest.raises(InvalidBatch, match="not among the stage's 1:3"):
        run(stage, kv, torch.randn(4, 32), layers)
    assert kv.length == 0


def test_a_part_takes_what_its_place_asks_for(checkpoint: CheckpointMaker) -> None:
    stage = stage_of(checkpoint, "LlamaForCausalLM", WHOLE)
    kv = stage.pool.sequence(4)
    with pytest.raises(InvalidBatch, match="takes hidden rows"):
        run(stage, kv, torch.tensor([1, 2]), LayerRange(1, 4))
    with pytest.raises(InvalidBatch, match="takes token ids"):
        run(stage, kv, torch.randn(2, 32), LayerRange(0, 2))
