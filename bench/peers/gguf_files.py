"""Llama-architecture checkpoints as GGUF files that llama.cpp reads.

Owns names, metadata and the order of rows. The vocabulary is a stand-in of the right size, with
bytes where llama.cpp wants them: prompts are sent as ids, and what ids spell does not cost time.
Every matrix is stored in the type asked for, the head included, which is as fast as that type gets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from bench.streams import read_config
from shoal_engine.loading import FolderSource

Floats = npt.NDArray[np.float32]
AddVocabulary = Callable[[gguf.GGUFWriter, dict[str, Any]], None]

KINDS = ("Q8_0", "Q4_0")
_BYTE_COUNT = 256
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def ensure(folder: Path, kind: str, made: Path) -> Path:
    """The checkpoint in `folder` as a GGUF file of `kind` in `made`, written on first use."""
    path = made / f"{folder.name}-{kind}.gguf"
    if not path.exists():
        made.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        write(folder, kind, unfinished)
        unfinished.rename(path)
    return path


def write(folder: Path, kind: str, path: Path, add_vocabulary: AddVocabulary | None = None) -> None:
    """Convert a Llama checkpoint; other architectures are refused by an assertion.

    add_vocabulary: for files whose text counts; the stand-in otherwise.
    """
    config = read_config(folder)
    assert config["architectures"] == ["LlamaForCausalLM"], config["architectures"]
    writer = gguf.GGUFWriter(str(path), "llama", use_temp_file=True)
    _add_metadata(writer, config, kind)
    (add_vocabulary or _add_vocabulary)(writer, config)
    quantized = gguf.GGMLQuantizationType[kind]
    source = FolderSource(folder)
    for name in source.names():
        data: Floats = source.read(name).float().numpy()
        data = ordered(name, data, config)
        if data.ndim == 1:
            writer.add_tensor(gguf_name(name), data)
        else:
            blocks = gguf.quants.quantize(data, quantized)
            writer.add_tensor(gguf_name(name), blocks, raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    stem, _, suffix = name.rpartition(".")
    if stem in _NAMES:
        return f"{_NAMES[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER_NAMES[part]}.{suffix}"


def ordered(name: str, data: Floats, config: dict[str, Any]) -> Floats:
    """Rows of queries and keys in llama.cpp's order: halves of a head become neighbours."""
    if "q_proj" in name:
        heads = config["num_attention_heads"]
    elif "k_proj" in name:
        heads = config["num_key_value_heads"]
    else:
        return data
    rows = data.reshape(heads, 2, data.shape[0] // heads // 2, *data.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(data.shape))


def _add_metadata(writer: gguf.GGUFWriter, config: dict[str, Any], kind: str) -> None:
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(_rope_theta(config))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])


def _rope_theta(config: dict[str, Any]) -> float:
    """Newer checkpoints keep it among the rope parameters."""
    parameters = config.get("rope_parameters") or {}
    return float(config.get("rope_theta") or parameters.get("rope_theta") or 10000.0)


def _add_vocabulary(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Unknown, begin, end, 256 bytes, then words that say their id."""
    plain, unknown, control, byte = (
        int(gguf.TokenType[name]) for name in ("NORMAL", "UNKNOWN", "CONTROL", "BYTE")
    )
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(_BYTE_COUNT))]
    types = [unknown, control, control, *[byte] * _BYTE_COUNT]
    count: int = config["vocab_size"]
    assert count > len(tokens)
    types += [plain] * (count - len(tokens))
    tokens += [f"▁t{token}" for token in range(len(tokens), count)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(token) for token in range(count)])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
