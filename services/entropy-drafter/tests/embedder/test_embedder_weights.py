"""Places of tensors: those the library wrote, and files that are not what they say."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from shoal_entropy_drafter.embedder.weights import HEADER_BYTES_MAX, BrokenWeights, read_places


def test_places_hold_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    saved = {
        "one": np.arange(6, dtype=np.float32).reshape(2, 3),
        "other": np.arange(5, dtype=np.float32) / 7,
        "ids": np.arange(4, dtype=np.int64),
    }
    save_file(saved, path, metadata={"format": "pt"})
    places = read_places(path)
    assert places.keys() == {"one", "other"}
    for name, place in places.items():
        values = np.fromfile(
            path, np.float32, offset=place.offset_bytes, count=place.size_bytes // 4
        )
        np.testing.assert_array_equal(values.reshape(place.shape), saved[name])


def header(about: object) -> bytes:
    text = json.dumps(about).encode()
    return struct.pack("<Q", len(text)) + text


WHOLE = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no safetensors header"),
        (b"\x05\0\0", "no safetensors header"),
        (struct.pack("<Q", HEADER_BYTES_MAX + 1), "no safetensors header"),
        (struct.pack("<Q", 4) + b"{{{{", "cannot be read"),
        (struct.pack("<Q", 900) + b"{}", "within its header"),
        (header([1]), "cannot be read"),
        (header({"a": 1}), "cannot be read"),
        (header({"a": {"dtype": "F32", "shape": [2]}}), "cannot be read"),
        (header({"a": {**WHOLE["a"], "shape": [3]}}), "cannot be read"),
        (header({"a": {**WHOLE["a"], "data_offsets": [-8, 0]}}), "cannot be read"),
        (header(WHOLE) + b"1234", "ends before a"),
    ],
)
def test_a_broken_file_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BrokenWeights, match=told):
        read_places(path)
