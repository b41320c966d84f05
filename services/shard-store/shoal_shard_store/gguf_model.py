"""From a GGUF file's own words to those of a Hugging Face checkpoint: configuration and names.

Owns the families that can be read and the names of their tensors. Blocks stay as they are; what a
converter has put in another order (rows of q and k, for llama) is said beside the tensor. Pure.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal_shard_store.errors import UntrustedFolder
from shoal_shard_store.gguf_header import GgufHeader
from shoal_shard_store.safetensors_header import StoredTensor

ROPE_FACTORS = "rope_freqs.weight"
"""Frequencies of a llama 3 whose context was stretched: not a weight, but part of the formula."""

_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_LAYER_NAME = re.compile(r"blk\.(\d{1,5})\.([a-z_]+)\.(weight|bias)")
_UNSAID = object()


@dataclass(frozen=True)
class _Family:
    architecture: str
    model_type: str
    parts: Mapping[str, str]
    is_permuted: bool = False


_FAMILIES = {
    # Llama, Mistral and those that share their converter.
    "llama": _Family("LlamaForCausalLM", "llama", _LAYER_PARTS, is_permuted=True),
    "qwen2": _Family("Qwen2ForCausalLM", "qwen2", _LAYER_PARTS),
    "qwen3": _Family("Qwen3ForCausalLM", "qwen3", {**_LAYER_PARTS, **_QK_NORMS}),
}


class GgufModel:
    """One file's model. Raises UntrustedFolder for what is no text model of a known family."""

    def __init__(self, header: GgufHeader, file_name: str) -> None:
        self._metadata = header.metadata
        self._tensors = {tensor.name: tensor for tensor in header.tensors}
        self._file_name = file_name
        name = header.metadata.get("general.architecture")
        if name not in _FAMILIES:
            known = ", ".join(_FAMILIES)
            raise self._refused(f"its architecture is '{str(name)[:60]}'", f"known are {known}")
        self._name = str(name)
        self._family = _FAMILIES[self._name]
        if header.metadata.get("split.count", 0) not in (0, 1):
            raise self._refused("it is one part of several", "join them with llama-gguf-split")
        if self._optional("expert_count", 0):
            raise self._refused("it is a mixture of experts", "choose a dense model")

    def config(self, rope_factors: bytes = b"") -> dict[str, Any]:
        """`config.json`. rope_factors: the bytes of the tensor ROPE_FACTORS, where it exists."""
        heads = self._count("attention.head_count")
        width = self._count("embedding_length")
        kv_heads = self._optional("attention.head_count_kv", heads)
        if type(kv_heads) is not int or not 0 < kv_heads <= heads:
            raise self._refused("its layers have different head counts", "choose another model")
        window = self._optional("attention.sliding_window", 0)
        is_mistral = self._name == "llama" and bool(window)
        config: dict[str, Any] = {
            "architectures": ["MistralForCausalLM" if is_mistral else self._family.architecture],
            "model_type": "mistral" if is_mistral else self._family.model_type,
            "hidden_size": width,
            "num_hidden_layers": self._count("block_count"),
            "intermediate_size": self._count("feed_forward_length"),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": self._optional("attention.key_length", width // heads),
            "rms_norm_eps": self._optional("attention.layer_norm_rms_epsilon", 1e-5),
            "max_position_embeddings": self._count("context_length"),
            "rope_theta": self._optional("rope.freq_base", 10000.0),
            "rope_scaling": self._rope_scaling(rope_factors),
            "vocab_size": self._rows("token_embd.weight"),
            "tie_word_embeddings": "output.weight" not in self._tensors,
            "attention_bias": "blk.0.attn_q.bias" in self._tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in self._tensors,
            "hidden_act": "silu",
            # What blocks become when they are read.
            "torch_dtype": "float32",
        }
        if is_mistral:
            config["sliding_window"] = window
        for name in ("bos", "eos"):
            token_id = self._metadata.get(f"tokenizer.ggml.{name}_token_id")
            config[f"{name}_token_id"] = token_id if type(token_id) is int else None
        return config

    def tensors(self) -> list[StoredTensor]:
        """Every weight by its Hugging Face name. Raises UntrustedFolder for one that is unknown."""
        heads = self._count("attention.head_count")
        permuted = {
            "attn_q": heads,
            "attn_k": self._optional("attention.head_count_kv", heads),
        }
        found = []
        for tensor in self._tensors.values():
            if tensor.name == ROPE_FACTORS:
                continue
            name, part = self._renamed(tensor.name)
            found.append(
                StoredTensor(
                    name,
                    f"GGUF:{tensor.type_name}",
                    tensor.shape,
                    self._file_name,
                    tensor.offset_bytes,
                    tensor.size_bytes,
                    permuted.get(part, 0) if self._family.is_permuted else 0,
                )
            )
        return found

    def rope_factors_place(self) -> tuple[int, int] | None:
        """Offset and size of the tensor ROPE_FACTORS; None without one."""
        tensor = self._tensors.get(ROPE_FACTORS)
        if tensor is None:
            return None
        if tensor.type_name != "F32" or tensor.size_bytes > 1 << 16:
            raise self._refused("its rope_freqs are no numbers", "download it again")
        return tensor.offset_bytes, tensor.size_bytes

    def _renamed(self, name: str) -> tuple[str, str]:
        if name in _TOP_NAMES:
            return _TOP_NAMES[name], ""
        match = _LAYER_NAME.fullmatch(name)
        if match is None or match[2] not in self._family.parts:
            raise self._refused(
                f"tensor {name[:100]} is none of a {self._name} model", "choose another file"
            )
        return f"model.layers.{int(match[1])}.{self._family.parts[match[2]]}.{match[3]}", match[2]

    def _rope_scaling(self, factors: bytes) -> dict[str, Any] | None:
        if factors:
            return self._llama3_scaling(factors)
        kind = self._optional("rope.scaling.type", "none")
        if kind in ("none", ""):
            return None
        if kind not in ("linear", "yarn"):
            raise self._refused(f"its rope scaling is '{str(kind)[:40]}'", "choose another file")
        scaling = {"rope_type": kind, "factor": self._optional("rope.scaling.factor", 1.0)}
        original = self._optional("rope.scaling.original_context_length", 0)
        if original:
            scaling["original_max_position_embeddings"] = original
        return scaling

    def _llama3_scaling(self, data: bytes) -> dict[str, Any]:
        """The parameters that give exactly these factors; llama 3.1 and later all share three."""
        found = struct.unpack(f"<{len(data) // 4}f", data)
        scaling = {
            "rope_type": "llama3",
            "factor": max(found),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        theta = self._optional("rope.freq_base", 10000.0)
        made = llama3_factors(scaling, theta, 2 * len(found))
        if any(not math.isclose(a, b, rel_tol=1e-3) for a, b in zip(found, made, strict=True)):
            raise self._refused("its rope_freqs are not those of a llama 3", "choose another file")
        return scaling

    def _rows(self, name: str) -> int:
        if name not in self._tensors or len(self._tensors[name].shape) != 2:
            raise self._refused(f"tensor {name} is missing", "complete the download")
        return self._tensors[name].shape[0]

    def _optional(self, key: str, default: Any) -> Any:
        value = self._metadata.get(f"{self._name}.{key}", _UNSAID)
        return default if value is _UNSAID else value

    def _count(self, key: str) -> int:
        value = self._optional(key, None)
        if type(value) is not int or not 0 < value < 1 << 24:
            raise self._refused(f"{self._name}.{key} is no number in bounds", "download it again")
        return value

    def _refused(self, problem: str, remedy: str) -> UntrustedFolder:
        return UntrustedFolder(self._file_name, problem, remedy)


def llama3_factors(scaling: Mapping[str, Any], theta: float, head_dim: int) -> list[float]:
    """By how much each rotary frequency of a stretched llama 3 is divided."""
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    factors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(scaling["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return factors
