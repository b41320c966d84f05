"""GGUF files of tiny random checkpoints, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from shoal_engine.testing import make_checkpoint

Floats = npt.NDArray[np.float32]

FAMILIES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}


class GgufModel:
    """A random checkpoint of an architecture, its GGUF file, and the checkpoint that this is.

    file: matrices in `kind`, the rest in float32. folder: a Hugging Face checkpoint whose weights
    are the numbers of the file.
    """

    def __init__(self, tmp_path: Path, architecture: str, kind: str) -> None:
        # Whole blocks of 32; heads of their own number for queries and keys.
        original = make_checkpoint(tmp_path / "original", architecture, intermediate_size=64)
        self.config: dict[str, Any] = json.loads((original / "config.json").read_text())
        self.folder = tmp_path / "numbers"
        self.file = tmp_path / "model.gguf"
        self.names: dict[str, str] = {}
        self._kind = gguf.GGMLQuantizationType[kind]
        self._arch = FAMILIES[architecture]
        self._write(original)

    @property
    def is_permuted(self) -> bool:
        return self._arch is gguf.MODEL_ARCH.LLAMA

    def heads_of(self, name: str) -> int:
        """Heads whose rows the converter puts in another order; 0 for other tensors."""
        if self.is_permuted and "q_proj" in name:
            return int(self.config["num_attention_heads"])
        if self.is_permuted and "k_proj" in name:
            return int(self.config["num_key_value_heads"])
        return 0

    def _write(self, original: Path) -> None:
        writer = gguf.GGUFWriter(str(self.file), gguf.MODEL_ARCH_NAMES[self._arch])
        _add_metadata(writer, self.config)
        names = gguf.get_tensor_name_map(self._arch, self.config["num_hidden_layers"])
        numbers: dict[str, torch.Tensor] = {}
        for name, tensor in load_file(original / "model.safetensors").items():
            stem, _, suffix = name.rpartition(".")
            self.names[name] = f"{names.get_name(stem)}.{suffix}"
            numbers[name] = self._add(writer, name, tensor.float().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        shutil.copytree(original, self.folder)
        save_file(numbers, self.folder / "model.safetensors", {"format": "pt"})

    def _add(self, writer: gguf.GGUFWriter, name: str, values: Floats) -> torch.Tensor:
        """Add a tensor in llama.cpp's order; returns its numbers in that of the checkpoint."""
        stored = values
        if heads := self.heads_of(name):
            halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
            stored = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
        if values.ndim == 1:
            writer.add_tensor(self.names[name], stored)
            return torch.from_numpy(values)
        writer.add_tensor(
            self.names[name], gguf.quants.quantize(stored, self._kind), raw_dtype=self._kind
        )
        # Blocks lie within rows: their order does not change what becomes of a row.
        blocks = gguf.quants.quantize(values, self._kind)
        return torch.from_numpy(gguf.quants.dequantize(blocks, self._kind).copy())


def _add_metadata(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.get("rope_theta") or rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if config["architectures"] == ["MistralForCausalLM"]:
        writer.add_sliding_window(config["sliding_window"])
    words = [f"▁t{token}" for token in range(config["vocab_size"] - 3)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *words])
    writer.add_token_scores([-float(token) for token in range(config["vocab_size"])])
    writer.add_token_types([2, 3, 3, *[1] * len(words)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
