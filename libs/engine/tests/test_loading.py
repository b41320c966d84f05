"""Stages read only what they need, from folders or any other source, and refuse what is odd."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shoal_engine.errors import (
    InvalidLayerRange,
    UnsupportedDevice,
    UnsupportedModel,
    UntrustedCheckpoint,
)
from shoal_engine.loading import FolderSource, StageOptions, choose_device, load_stage
from shoal_engine.shape import LayerRange, read_shape, tensors_needed
from shoal_engine.testing import Chain, prompt_of

CheckpointMaker = Callable[..., Path]
OPTIONS = StageOptions(kv_blocks=8)


class RecordingSource:
    """Tensors in memory; remembers which were read."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.reads: list[str] = []

    def names(self) -> list[str]:
        return list(self.tensors)

    def read(self, name: str) -> torch.Tensor:
        self.reads.append(name)
        return self.tensors[name]


@pytest.fixture
def changed(checkpoint: CheckpointMaker, tmp_path: Path) -> Path:
    """A copy of an untied Llama that a test may damage."""
    folder = tmp_path / "changed"
    shutil.copytree(checkpoint(tie_word_embeddings=False), folder)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("layers", [LayerRange(0, 1), LayerRange(1, 3), LayerRange(3, 4)], ids=str)
def test_only_needed_tensors_are_read_and_each_once(
    checkpoint: CheckpointMaker, layers: LayerRange, tie: bool
) -> None:
    folder = checkpoint(tie_word_embeddings=tie)
    source = RecordingSource(load_file(folder / "model.safetensors"))
    stage = load_stage(folder, layers, OPTIONS, source)
    needed = tensors_needed(source.names(), read_shape(folder), layers)
    assert sorted(source.reads) == sorted(needed)
    assert stage.weight_bytes == sum(source.tensors[name].nbytes for name in needed)
    assert (stage.is_first, stage.is_last) == (layers.start == 0, layers.stop == 4)


def test_source_needs_no_weights_in_the_folder(checkpoint: CheckpointMaker, tmp_path: Path) -> None:
    folder = checkpoint()
    shutil.copy(folder / "config.json", tmp_path)
    source = RecordingSource(load_file(folder / "model.safetensors"))
    assert load_stage(tmp_path, LayerRange(0, 4), OPTIONS, source).is_last


def test_tied_whole_model_holds_the_embedding_once(checkpoint: CheckpointMaker) -> None:
    folder = checkpoint(tie_word_embeddings=True)
    stage = load_stage(folder, LayerRange(0, 4), OPTIONS)
    tensors = load_file(folder / "model.safetensors")
    assert stage.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_stored_head_wins_over_the_tie(changed: Path) -> None:
    prompt = prompt_of(12)
    untied = Chain(changed, (0, 2, 4), OPTIONS).greedy(prompt, 6)
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert Chain(changed, (0, 2, 4), OPTIONS).greedy(prompt, 6) == untied


def test_sharded_checkpoint_loads_alike(changed: Path) -> None:
    prompt = prompt_of(12)
    whole = Chain(changed, (0, 4), OPTIONS).greedy(prompt, 6)
    tensors = load_file(changed / "model.safetensors")
    (changed / "model.safetensors").unlink()
    weight_map = {}
    for index, name in enumerate(sorted(tensors)):
        weight_map[name] = f"model-{index % 3}.safetensors"
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name, where in weight_map.items() if where == file}
        save_file(part, changed / file)
    (changed / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert Chain(changed, (0, 1, 4), OPTIONS).greedy(prompt, 6) == whole
    wrong = weight_map | {"model.norm.weight": "model-0.safetensors"}
    wrong |= {"lm_head.weight": "model-1.safetensors"}
    (changed / "model.safetensors.index.json").write_text(json.dumps({"weight_map": wrong}))
    with pytest.raises(UntrustedCheckpoint, match="no readable tensor"):
        load_stage(changed, LayerRange(3, 4), OPTIONS)
    (changed / "model-1.safetensors").unlink()
    with pytest.raises(UntrustedCheckpoint, match=r"model-1\.safetensors: missing"):
        load_stage(changed, LayerRange(0, 4), OPTIONS)


def test_old_rotary_buffers_are_ignored(changed: Path) -> None:
    extra = {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    rewrite(changed, lambda tensors: tensors.update(extra))
    assert load_stage(changed, LayerRange(0, 4), OPTIONS).is_last


def test_missing_tensor_is_refused_only_by_the_stage_that_needs_it(changed: Path) -> None:
    rewrite(changed, lambda tensors: tensors.pop("model.layers.2.mlp.up_proj.weight"))
    load_stage(changed, LayerRange(0, 2), OPTIONS)
    with pytest.raises(UntrustedCheckpoint, match=r"1 tensors are missing.*layers\.2\.mlp\.up"):
        load_stage(changed, LayerRange(2, 4), OPTIONS)


def test_missing_head_is_refused(changed: Path) -> None:
    rewrite(changed, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UntrustedCheckpoint, match=r"such as lm_head\.weight"):
        load_stage(changed, LayerRange(3, 4), OPTIONS)


def test_unknown_tensor_is_refused(changed: Path) -> None:
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}
    rewrite(changed, lambda tensors: tensors.update(bias))
    with pytest.raises(UnsupportedModel, match=r"no place for 1 stored tensors.*q_proj\.bias"):
        load_stage(changed, LayerRange(0, 1), OPTIONS)


def test_misshapen_tensor_is_refused(changed: Path) -> None:
    rewrite(changed, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    with pytest.raises(UntrustedCheckpoint, match=r"model\.norm\.weight is \(31,\).*\(32,\)"):
        load_stage(changed, LayerRange(3, 4), OPTIONS)


@pytest.mark.parametrize("kept", [0, 7, 100, -50])
def test_truncated_file_is_refused(changed: Path, kept: int) -> None:
    file = changed / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UntrustedCheckpoint, match=r"model\.safetensors: damaged"):
        load_stage(changed, LayerRange(0, 4), OPTIONS)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_tensor_of_an_unknown_number_format_is_refused(changed: Path, dtype: torch.dtype) -> None:
    rewrite(changed, lambda t: t.update({"model.norm.weight": torch.ones(32).to(dtype)}))
    with pytest.raises(UnsupportedModel, match=r"model\.norm\.weight is stored as"):
        load_stage(changed, LayerRange(3, 4), OPTIONS)


def test_pickle_is_refused_before_anything_is_built(changed: Path) -> None:
    (changed / "model.safetensors").rename(changed / "pytorch_model.bin")
    with pytest.raises(UntrustedCheckpoint, match=r"pytorch_model\.bin: pickled"):
        load_stage(changed, LayerRange(0, 4), OPTIONS)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 6},
        {"hidden_act": "os.system"},
        {"rope_parameters": {"rope_type": "invented", "rope_theta": 1.0}},
        {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": None}},
        {"intermediate_size": "wide"},
        {"head_dim": 1 << 20},
        {"initializer_range": None, "layer_types": ["mamba"] * 4},
    ],
    ids=str,
)
def test_configuration_that_cannot_be_built_is_refused(
    changed: Path, change: dict[str, object]
) -> None:
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UnsupportedModel):
        load_stage(changed, LayerRange(0, 4), OPTIONS)


def test_configuration_cannot_choose_how_code_runs_or_swell(changed: Path) -> None:
    prompt = prompt_of(12)
    expected = Chain(changed, (0, 4), OPTIONS).greedy(prompt, 6)
    config = json.loads((changed / "config.json").read_text())
    config |= {"_attn_implementation": "someone/kernel", "attn_implementation": "someone/kernel"}
    config |= {"num_labels": 10**9, "pad_token_id": 10**6, "initializer_range": "wide"}
    (changed / "config.json").write_text(json.dumps(config))
    assert Chain(changed, (0, 4), OPTIONS).greedy(prompt, 6) == expected


def test_range_beyond_the_model_is_refused(checkpoint: CheckpointMaker) -> None:
    with pytest.raises(InvalidLayerRange, match="4 layers"):
        load_stage(checkpoint(), LayerRange(3, 5), OPTIONS)


def test_folder_source_copies_tensors_in_their_stored_dtype(changed: Path) -> None:
    rewrite(changed, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].bfloat16()}))
    source = FolderSource(changed)
    tensor = source.read("model.norm.weight")
    assert tensor.dtype is torch.bfloat16
    shutil.rmtree(changed)
    assert torch.isfinite(tensor).all()


def test_cpu_computes_in_float32(checkpoint: CheckpointMaker) -> None:
    stage = load_stage(checkpoint(), LayerRange(0, 1), OPTIONS)
    assert (stage.dtype, stage.device.type) == (torch.float32, "cpu")
    assert stage.kv_bytes_per_block == 2 * 16 * 2 * 8 * 4
    assert stage.pool.free_count == 8


@pytest.mark.parametrize(
    "options",
    [
        StageOptions(device="tpu"),
        StageOptions(device="mps"),
        StageOptions(device="cuda:99"),
        StageOptions(dtype="int8"),
        StageOptions(dtype="float16"),
    ],
    ids=lambda options: f"{options.device}-{options.dtype}",
)
def test_unusable_devices_are_refused(checkpoint: CheckpointMaker, options: StageOptions) -> None:
    with pytest.raises(UnsupportedDevice):
        choose_device(options, read_shape(checkpoint()))


def test_bfloat16_is_refused_on_a_cpu_without_it(
    checkpoint: CheckpointMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(UnsupportedDevice, match="bfloat16"):
        choose_device(StageOptions(dtype="bfloat16"), read_shape(checkpoint()))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    _, dtype = choose_device(StageOptions(dtype="bfloat16"), read_shape(checkpoint()))
    assert dtype is torch.bfloat16


def test_thread_count_is_set(checkpoint: CheckpointMaker) -> None:
    load_stage(checkpoint(), LayerRange(0, 1), StageOptions(kv_blocks=8, threads=2))
    assert torch.get_num_threads() == 2
