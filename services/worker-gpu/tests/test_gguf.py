"""A model that was stored as a GGUF file says what its numbers say in transformers."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import LayerRange
from shoal_engine.stage import Row, Stage, StageBatch
from shoal_engine.testing import LAYER_COUNT, prompt_of, reference_tokens
from shoal_worker_gpu.shards import SegmentSource, TensorPlace

from .gguf_files import FAMILIES, GgufModel

COUNT = 12


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def places_of(model: GgufModel) -> dict[str, TensorPlace]:
    """Where the file holds each tensor, by its name in the checkpoint."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(model.file).tensors}
    places = {}
    for name, gguf_name in model.names.items():
        tensor = stored[gguf_name]
        places[name] = TensorPlace(
            str(model.file),
            f"GGUF:{tensor.tensor_type.name}",
            tuple(int(size) for size in reversed(tensor.shape)),
            int(tensor.data_offset),
            int(tensor.n_bytes),
            model.heads_of(name),
        )
    return places


def greedy(stage: Stage, prompt: list[int], count: int = COUNT) -> list[int]:
    kv = stage.pool.sequence(len(prompt) + count)
    made: list[int] = []
    given = prompt
    while len(made) < count:
        batch = StageBatch([Row(kv, kv.length, len(given))], token_ids=torch.tensor(given))
        logits = stage.forward(batch).logits
        assert logits is not None
        given = [int(logits[0].argmax())]
        made += given
    return made


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "BF16", "Q4_0"])
@pytest.mark.parametrize("architecture", FAMILIES)
def test_its_numbers_and_tokens_are_those_of_the_checkpoint(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    model = GgufModel(tmp_path, architecture, kind)
    source = SegmentSource(places_of(model))
    expected = load_stage(model.folder, LayerRange(0, LAYER_COUNT), StageOptions())
    stage = load_stage(model.folder, LayerRange(0, LAYER_COUNT), StageOptions(), source)
    source.close()
    wanted = dict(expected._model.body.named_parameters())
    for name, parameter in stage._model.body.named_parameters():
        assert torch.equal(parameter, wanted[name]), name
    prompt = prompt_of(23, seed=3)
    assert greedy(stage, prompt) == reference_tokens(model.folder, prompt, COUNT)


def test_int8_is_made_from_what_the_blocks_mean(tmp_path: Path) -> None:
    model = GgufModel(tmp_path, "LlamaForCausalLM", "Q8_0")
    source = SegmentSource(places_of(model))
    layers, options = LayerRange(0, LAYER_COUNT), StageOptions(quantization="int8")
    prompt = prompt_of(9, seed=1)
    expected = greedy(load_stage(model.folder, layers, options), prompt)
    assert greedy(load_stage(model.folder, layers, options, source), prompt) == expected
    source.close()
