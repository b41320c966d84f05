"""Evening out channels changes no result, and only where channels stand out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from shoal_engine.smoothing import Fold, blocks_of, folded_norm, folds_of, head_block
from shoal_engine.testing import ARCHITECTURES, LAYER_COUNT, prompt_of

CheckpointMaker = Callable[..., Path]


def model_of(folder: Path, architecture: str) -> Any:
    return getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).eval()


def logits_of(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([prompt_of(20)])).logits[0]
    return logits


def fold_into(model: Any) -> list[Fold]:
    """Apply what the engine folds to the weights of a float32 model."""
    blocks = [block for layer in range(LAYER_COUNT) for block in blocks_of(model, layer)]
    found = []
    for block in [*blocks, head_block()]:
        tensors = {
            f"{name}.{kind}": parameter.data
            for name in block.modules
            for kind, parameter in model.get_submodule(name).named_parameters()
        }
        folds = folds_of(model, block, tensors)
        found += folds.values()
        weight = tensors[f"{block.norm}.weight"]
        weight.copy_(folded_norm(model, block.norm, weight, folds[block.norm]))
        if f"{block.norm}.bias" in tensors:
            tensors[f"{block.norm}.bias"] /= folds[block.norm].rows
        for name in block.modules[1:]:
            fold = folds[name]
            assert fold.columns is not None
            tensors[f"{name}.weight"] *= fold.columns
            if fold.rows is not None:
                tensors[f"{name}.weight"] /= fold.rows[:, None]
                if f"{name}.bias" in tensors:
                    tensors[f"{name}.bias"] /= fold.rows
    return found


def roughen(model: Any) -> None:
    """Make channels of all 1-d and 2-d weights differ by up to 2 ** 4."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".layers." in name or name == "model.norm.weight":
            exponents = torch.randint(-4, 5, (parameter.shape[-1],), generator=generator)
            parameter.data *= torch.exp2(exponents.float())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folding_changes_no_logits(checkpoint: CheckpointMaker, architecture: str) -> None:
    model = model_of(checkpoint(architecture, tie_word_embeddings=False), architecture)
    roughen(model)
    expected = logits_of(model)
    folds = fold_into(model)
    assert sum(int((fold.columns != 1).sum()) for fold in folds if fold.columns is not None) > 100
    if architecture == "Gemma2ForCausalLM":  # Its norms store the distance from 1, which rounds.
        torch.testing.assert_close(logits_of(model), expected, rtol=1e-3, atol=1e-3)
    else:
        assert torch.equal(logits_of(model), expected)


def test_factors_are_powers_of_two(checkpoint: CheckpointMaker) -> None:
    model = model_of(checkpoint(tie_word_embeddings=False), "LlamaForCausalLM")
    roughen(model)
    for fold in fold_into(model):
        for factors in (fold.columns, fold.rows):
            if factors is not None:
                assert torch.equal(torch.log2(factors), torch.log2(factors).round())


def block_of(model: Any, made: torch.Tensor, read: torch.Tensor) -> dict[str, Fold]:
    """Folds of the head block for a norm `made` and a head with columns of size `read`."""
    generator = torch.Generator().manual_seed(0)
    head = torch.rand((50, len(read)), generator=generator).add(0.5) * read
    return folds_of(model, head_block(), {"model.norm.weight": made, "lm_head.weight": head})


def test_ordinary_channels_are_left_alone(checkpoint: CheckpointMaker) -> None:
    model = model_of(checkpoint(), "LlamaForCausalLM")
    made = torch.linspace(0.7, 1.4, 32)
    folds = block_of(model, made, torch.ones(32))
    assert torch.equal(folds["model.norm"].rows, torch.ones(32))
    assert torch.equal(folds["lm_head"].columns, torch.ones(32))


def test_planted_channels_are_found_and_no_others(checkpoint: CheckpointMaker) -> None:
    model = model_of(checkpoint(), "LlamaForCausalLM")
    made, read = torch.ones(32), torch.ones(32)
    made[[3, 9]], read[[3, 9]] = 50, 1 / 50
    factors = block_of(model, made, read)["model.norm"].rows
    assert factors is not None
    assert factors[[3, 9]].tolist() == [32, 32]
    assert int((factors != 1).sum()) == 2


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_channels_without_a_size_are_left_alone(checkpoint: CheckpointMaker, value: float) -> None:
    model = model_of(checkpoint(), "LlamaForCausalLM")
    made, read = torch.ones(32), torch.ones(32)
    made[4], read[5] = value, value
    factors = block_of(model, made, read)["model.norm"].rows
    assert torch.equal(factors, torch.ones(32))
    assert torch.equal(
        block_of(model, torch.zeros(32), torch.ones(32))["model.norm"].rows, torch.ones(32)
    )
