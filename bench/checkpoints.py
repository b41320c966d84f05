"""Checkpoints of real models' shapes with random weights, for measuring speed.

Speed depends on shapes, not on what a model has learned, so nothing is downloaded: weights are
seeded noise in bfloat16, written once to a folder outside the repository and reused. The tokenizer
is the demo model's, so that a whole fleet can serve them; its ids are the low ones of the
vocabulary. `python -m bench.checkpoints --folder FOLDER` makes all of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_FOLDER = Path.home() / ".cache" / "shoal" / "bench"
_TOKENIZER = ROOT / "models" / "heavyweight"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
# A change of what is written changes the marker's text, and old folders are made again.
_FORMAT = 1
_MARKER = "made.json"
_SPREAD = 0.02
_NOISE_ELEMENTS = 1 << 22

_COMMON: dict[str, Any] = {
    "hidden_act": "silu",
    "initializer_range": _SPREAD,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "attention_dropout": 0.0,
}
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "tinyllama-1.1b": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    "qwen2.5-0.5b": _COMMON
    | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    },
}
"""config.json by name; the names are those that the benchmarks print."""


def ensure(name: str, folder: Path = DEFAULT_FOLDER) -> Path:
    """The checkpoint `name` of SHAPES under `folder`; made there when it is not, in seconds.

    A folder without its marker, left by an interrupted run, is made again.
    """
    made = folder / name
    marker = {"format": _FORMAT, "config": _config(name)}
    if (made / _MARKER).exists() and json.loads((made / _MARKER).read_text()) == marker:
        return made
    if made.exists():
        shutil.rmtree(made)
    made.mkdir(parents=True)
    save_file(_tensors(SHAPES[name]), made / "model.safetensors", metadata={"format": "pt"})
    for file in _TOKENIZER_FILES:
        shutil.copy(_TOKENIZER / file, made / file)
    (made / "config.json").write_text(json.dumps(_config(name), indent=1))
    (made / "generation_config.json").write_text(json.dumps({"eos_token_id": _ids()["eos"]}))
    (made / _MARKER).write_text(json.dumps(marker))
    return made


def _config(name: str) -> dict[str, Any]:
    ids = _ids()
    return {**SHAPES[name], "bos_token_id": ids["bos"], "eos_token_id": ids["eos"]}


def _ids() -> dict[str, int]:
    """Ids of the borrowed tokenizer's special tokens."""
    config = json.loads((_TOKENIZER / "config.json").read_text())
    return {"bos": config["bos_token_id"], "eos": config["eos_token_id"]}


def _tensors(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """All tensors of a Llama or Qwen2 of these sizes, by their usual names."""
    noise = _Noise(seed=0)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    tensors = {"model.embed_tokens.weight": noise.of(vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        for name, tensor in _layer(config, noise).items():
            tensors[f"model.layers.{layer}.{name}"] = tensor
    tensors["model.norm.weight"] = _norm(hidden)
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = noise.of(vocabulary, hidden)
    return tensors


def _layer(config: Mapping[str, Any], noise: _Noise) -> dict[str, torch.Tensor]:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    heads = config["num_attention_heads"] * head_dim
    kv_heads = config["num_key_value_heads"] * head_dim
    tensors = {
        "input_layernorm.weight": _norm(hidden),
        "self_attn.q_proj.weight": noise.of(heads, hidden),
        "self_attn.k_proj.weight": noise.of(kv_heads, hidden),
        "self_attn.v_proj.weight": noise.of(kv_heads, hidden),
        "self_attn.o_proj.weight": noise.of(hidden, heads),
        "post_attention_layernorm.weight": _norm(hidden),
        "mlp.gate_proj.weight": noise.of(inner, hidden),
        "mlp.up_proj.weight": noise.of(inner, hidden),
        "mlp.down_proj.weight": noise.of(hidden, inner),
    }
    if config["model_type"] == "qwen2":
        for name, width in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            tensors[f"self_attn.{name}_proj.bias"] = noise.of(width)
    return tensors


def _norm(width: int) -> torch.Tensor:
    return torch.ones(width, dtype=torch.bfloat16)


class _Noise:
    """Seeded normal noise in bfloat16, quick: slices of one block, each from its own offset.

    Drawing a billion normal numbers takes longer than anything that is measured with them.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        block = torch.randn(_NOISE_ELEMENTS, generator=self._generator) * _SPREAD
        self._block = block.to(torch.bfloat16)

    def of(self, *size: int) -> torch.Tensor:
        """A tensor of this size; rows differ from one another and from those of other tensors."""
        tensor = torch.empty(size, dtype=torch.bfloat16)
        flat = tensor.view(-1)
        for start in range(0, flat.numel(), _NOISE_ELEMENTS):
            part = flat[start : start + _NOISE_ELEMENTS]
            offset = int(torch.randint(_NOISE_ELEMENTS, (1,), generator=self._generator))
            part.copy_(self._block.roll(offset)[: part.numel()])
        return tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("--only", choices=SHAPES, help="default: all")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in [chosen.only] if chosen.only else SHAPES:
        start_s = time.perf_counter()
        folder = ensure(name, chosen.folder)
        sys.stdout.write(f"{folder}  {time.perf_counter() - start_s:.1f} s\n")


if __name__ == "__main__":
    main()
