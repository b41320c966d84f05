"""Model folders of a few kilobytes, written byte by byte as the format says."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

LAYER_COUNT = 2
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": LAYER_COUNT,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
NAMES = (
    "model.embed_tokens.weight",
    "model.layers.0.a.weight",
    "model.layers.0.b.weight",
    "model.layers.1.a.weight",
    "model.layers.1.b.weight",
    "model.norm.weight",
    "lm_head.weight",
)
TENSOR_SIZE_BYTES = 64


def content_of(name: str) -> bytes:
    """Bytes of a tensor that no other one has."""
    return bytes((len(name) * 31 + sum(name.encode()) + i) % 256 for i in range(TENSOR_SIZE_BYTES))


def header_of(names: tuple[str, ...]) -> dict[str, Any]:
    """A correct header for U8 tensors of 64 bytes each."""
    size = TENSOR_SIZE_BYTES
    return {
        name: {"dtype": "U8", "shape": [8, 8], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }


def safetensors_bytes(names: tuple[str, ...], header: Mapping[str, Any] | None = None) -> bytes:
    raw = json.dumps(header_of(names) if header is None else header).encode()
    return struct.pack("<Q", len(raw)) + raw + b"".join(content_of(name) for name in names)


def make_folder(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors_bytes(NAMES))
    return folder


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "tiny")


@pytest.fixture
def write_header(model_folder: Path) -> Callable[[Mapping[str, Any]], None]:
    def write(header: Mapping[str, Any]) -> None:
        (model_folder / "model.safetensors").write_bytes(safetensors_bytes(NAMES, header))

    return write
