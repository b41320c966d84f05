"""The trained models that ship give the same tokens split and whole."""

import json
from pathlib import Path

import pytest

from shoal_engine.loading import StageOptions
from shoal_engine.shape import read_shape
from shoal_engine.testing import Chain, prompt_of, reference_tokens

MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.mark.parametrize("name", ["heavyweight", "drafter"])
def test_demo_model_splits_say_what_generate_says(name: str) -> None:
    folder = MODELS / name
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"{name} is not in this checkout")
    shape = read_shape(folder)
    assert shape.vocab_size == json.loads((folder / "config.json").read_text())["vocab_size"]
    assert shape.eos_token_ids == (2, 0)
    options = StageOptions(kv_blocks=16)
    for seed in (0, 1):
        prompt = prompt_of(30, seed=seed, vocab_size=shape.vocab_size)
        expected = reference_tokens(folder, prompt, 24)
        third = shape.layer_count // 3
        for cuts in (
            (0, shape.layer_count),
            (0, third, shape.layer_count),
            (0, third, 2 * third, shape.layer_count),
        ):
            assert Chain(folder, cuts, options).greedy(prompt, 24) == expected, (seed, cuts)
