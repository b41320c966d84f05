"""Shapes read from JSON, layer ranges, and the tensors that a range needs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from shoal_engine.errors import InvalidLayerRange, UnsupportedModel, UntrustedCheckpoint
from shoal_engine.shape import FAMILIES, LayerRange, ModelShape, read_shape, tensors_needed

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


def write(folder: Path, config: object, generation: object = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def llama_shape(tie: bool) -> ModelShape:
    return ModelShape(
        architecture="LlamaForCausalLM",
        layer_count=3,
        hidden_size=32,
        vocab_size=100,
        context_length=64,
        head_count=4,
        kv_head_count=4,
        head_dim=8,
        tie_embeddings=tie,
        eos_token_ids=(2,),
        checkpoint_dtype="float32",
    )


NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.rotary_emb.inv_freq",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.10.self_attn.q_proj.weight",
    "model.layers.2.self_attn.q_proj.weight",
    "model.norm.weight",
]


def test_shape_fills_in_what_the_architecture_means_by_silence(tmp_path: Path) -> None:
    shape = read_shape(write(tmp_path, LLAMA))
    assert (shape.kv_head_count, shape.head_dim, shape.context_length) == (4, 8, 2048)
    assert shape.eos_token_ids == (2,)
    assert not shape.tie_embeddings


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_defaults_are_those_of_transformers(tmp_path: Path, architecture: str) -> None:
    stated = LLAMA | {"architectures": [architecture], "model_type": None, "hidden_size": 4096}
    del stated["model_type"]
    stated["num_attention_heads"] = 32
    shape = read_shape(write(tmp_path, stated))
    config = getattr(transformers, architecture).config_class(
        num_hidden_layers=3, hidden_size=4096, num_attention_heads=32, vocab_size=100
    )
    eos = config.eos_token_id
    assert shape.tie_embeddings == config.tie_word_embeddings
    assert shape.kv_head_count == config.num_key_value_heads
    assert shape.head_dim == (getattr(config, "head_dim", None) or 128)
    assert shape.context_length == config.max_position_embeddings
    assert shape.eos_token_ids == tuple([] if eos is None else eos if type(eos) is list else [eos])
    assert FAMILIES[architecture].model_type == config.model_type


def test_generation_config_names_the_end_of_sequence_ids(tmp_path: Path) -> None:
    shape = read_shape(write(tmp_path, LLAMA | {"eos_token_id": 7}, {"eos_token_id": [2, 0]}))
    assert shape.eos_token_ids == (2, 0)


def test_longrope_context_ends_where_frequencies_would_switch(tmp_path: Path) -> None:
    rope = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}
    config = LLAMA | {
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": rope,
    }
    assert read_shape(write(tmp_path, config)).context_length == 4096


@pytest.mark.parametrize(
    "name", ["MixtralForCausalLM", "MambaForCausalLM", "T5ForConditionalGeneration", "Custom"]
)
def test_other_architectures_are_refused_with_the_list(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"{name}.*Gemma2ForCausalLM.*LlamaForCausalLM"):
        read_shape(write(tmp_path, LLAMA | {"architectures": [name]}))


def test_quantised_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="quantised"):
        read_shape(write(tmp_path, LLAMA | {"quantization_config": {"bits": 4}}))


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": []},
        {"architectures": "LlamaForCausalLM"},
        {"model_type": "mamba"},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": True},
        {"num_key_value_heads": 3},
        {"num_key_value_heads": 8},
        {"hidden_size": "32"},
        {"vocab_size": None},
        {"vocab_size": 1.5},
        {"eos_token_id": "2"},
        {"rope_scaling": "long"},
    ],
    ids=str,
)
def test_malformed_configurations_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(UntrustedCheckpoint, match=r"config\.json"):
        read_shape(write(tmp_path, LLAMA | change))


def test_shapes_and_accounts_need_no_torch() -> None:
    code = (
        "import sys, shoal_engine.shape, shoal_engine.trust, shoal_engine.cache_spec\n"
        "import shoal_engine.blocks, shoal_engine.padding\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


@pytest.mark.parametrize(
    ("config", "dtype"),
    [({}, "float32"), ({"torch_dtype": "bfloat16"}, "bfloat16"), ({"dtype": "x" * 99}, "float32")],
    ids=["silent", "old name", "unknown"],
)
def test_stored_dtype_is_read(tmp_path: Path, config: dict[str, str], dtype: str) -> None:
    assert read_shape(write(tmp_path, LLAMA | config)).checkpoint_dtype == dtype


def test_ranges_read_and_print_alike() -> None:
    layers = LayerRange.parse("0:3")
    assert (str(layers), len(layers), layers.is_first) == ("0:3", 3, True)
    assert layers.is_last(3)
    assert not layers.is_last(4)
    assert [layer in layers for layer in (-1, 0, 2, 3)] == [False, True, True, False]
    assert not LayerRange(1, 3).is_first


@pytest.mark.parametrize(
    "text", ["", "3", "3:3", "4:2", "-1:2", "a:b", "0:3:6", "0:3\n", "0:9999999"]
)
def test_bad_ranges_are_refused(text: str) -> None:
    with pytest.raises(InvalidLayerRange):
        LayerRange.parse(text)


def test_range_beyond_the_model_is_refused() -> None:
    with pytest.raises(InvalidLayerRange, match=r"2:4.*3 layers"):
        tensors_needed(NAMES, llama_shape(tie=True), LayerRange(2, 4))


def test_middle_stage_needs_its_layers_only() -> None:
    needed = tensors_needed(NAMES, llama_shape(tie=True), LayerRange(1, 2))
    assert needed == ["model.layers.1.self_attn.q_proj.weight"]


def test_first_stage_needs_the_embedding_and_last_the_norm() -> None:
    names = [*NAMES, "lm_head.weight", "lm_head.bias"]
    first = tensors_needed(names, llama_shape(tie=False), LayerRange(0, 1))
    assert first == ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"]
    last = tensors_needed(names, llama_shape(tie=False), LayerRange(2, 3))
    assert last == [
        "model.layers.2.self_attn.q_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
        "lm_head.bias",
    ]


def test_tied_last_stage_needs_the_embedding_unless_a_head_is_stored() -> None:
    tied = llama_shape(tie=True)
    assert "model.embed_tokens.weight" in tensors_needed(NAMES, tied, LayerRange(2, 3))
    stored = tensors_needed([*NAMES, "lm_head.weight"], tied, LayerRange(2, 3))
    assert "lm_head.weight" in stored
    assert "model.embed_tokens.weight" not in stored
