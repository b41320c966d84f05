"""The header of a safetensors file, read with suspicion.

Owns the format's rules: u64 little-endian header length, a JSON object, then data without gaps or
overlaps. Knows nothing of models. Reads the header alone, never the tensors.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from typing import Any

from shoal_shard_store.errors import UntrustedFolder

HEADER_SIZE_BYTES_MAX = 100_000_000
"""The format's own limit."""

DTYPE_SIZE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
_DIMENSIONS_MAX = 16
_DIMENSION_MAX = 1 << 48
_DOWNLOAD_AGAIN = "download it again"


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor's bytes are: [offset_bytes, offset_bytes + size_bytes) of `file_name`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file_name: str
    offset_bytes: int
    size_bytes: int
    permuted_heads: int = 0
    """Heads whose rows a GGUF converter has put in another order (see `gguf_model`)."""


def read_header(descriptor: int, file_name: str) -> list[StoredTensor]:
    """Tensors of an open file, by offset. Raises UntrustedFolder for anything out of the format."""
    file_size_bytes = os.fstat(descriptor).st_size
    header_size_bytes = header_size(os.pread(descriptor, 8, 0), file_name, file_size_bytes)
    raw = os.pread(descriptor, header_size_bytes, 8)
    return parse_header(raw, file_name, file_size_bytes)


def header_size(prefix: bytes, file_name: str, file_size_bytes: int) -> int:
    """Bytes of the JSON that follows a file's first 8 bytes. Raises UntrustedFolder."""
    if len(prefix) < 8:
        raise UntrustedFolder(file_name, "shorter than a safetensors header", _DOWNLOAD_AGAIN)
    (header_size_bytes,) = struct.unpack("<Q", prefix)
    most = min(HEADER_SIZE_BYTES_MAX, file_size_bytes - 8)
    if not 2 <= header_size_bytes <= most:
        raise UntrustedFolder(
            file_name,
            f"its header claims {header_size_bytes} bytes, at most {most} are possible",
            _DOWNLOAD_AGAIN,
        )
    return int(header_size_bytes)


def parse_header(raw: bytes, file_name: str, file_size_bytes: int) -> list[StoredTensor]:
    """Tensors that the header `raw` of a file of that size describes, by offset.

    Raises UntrustedFolder for anything out of the format.
    """
    entries = _parse_json(raw, file_name)
    entries.pop("__metadata__", None)
    data_start = 8 + len(raw)
    tensors = [_tensor(name, entry, file_name, data_start) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset_bytes, tensor.size_bytes, tensor.name))
    _check_layout(tensors, file_name, data_start, file_size_bytes)
    return tensors


def _parse_json(raw: bytes, file_name: str) -> dict[str, Any]:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise ValueError("duplicate name")
        return value

    try:
        value = json.loads(raw, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as err:
        problem = "its header is not valid JSON with unique names"
        raise UntrustedFolder(file_name, problem, _DOWNLOAD_AGAIN) from err
    if not isinstance(value, dict):
        raise UntrustedFolder(file_name, "its header is not a JSON object", _DOWNLOAD_AGAIN)
    return value


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= _DIMENSION_MAX


def _tensor(name: str, entry: object, file_name: str, data_start: int) -> StoredTensor:
    label = f"tensor {name[:200]}"
    if not isinstance(entry, dict):
        raise UntrustedFolder(file_name, f"{label} has no description", _DOWNLOAD_AGAIN)
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_SIZE_BYTES:
        raise UntrustedFolder(
            file_name, f"{label} has an unknown dtype", f"known are {', '.join(DTYPE_SIZE_BYTES)}"
        )
    if (
        not isinstance(shape, list)
        or len(shape) > _DIMENSIONS_MAX
        or not all(_is_size(dimension) for dimension in shape)
    ):
        raise UntrustedFolder(file_name, f"{label} has an impossible shape", _DOWNLOAD_AGAIN)
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_is_size(offset) for offset in offsets)
    ):
        raise UntrustedFolder(file_name, f"{label} has impossible offsets", _DOWNLOAD_AGAIN)
    start, stop = offsets
    size_bytes = math.prod(shape) * DTYPE_SIZE_BYTES[dtype]
    if stop - start != size_bytes:
        raise UntrustedFolder(
            file_name,
            f"{label} takes {stop - start} bytes where its shape says {size_bytes}",
            _DOWNLOAD_AGAIN,
        )
    return StoredTensor(name, dtype, tuple(shape), file_name, data_start + start, size_bytes)


def _check_layout(
    tensors: list[StoredTensor], file_name: str, data_start: int, file_size_bytes: int
) -> None:
    """Tensors must follow one another from the header to the end of the file."""
    for tensor in tensors:
        stop = tensor.offset_bytes + tensor.size_bytes
        if stop > file_size_bytes:
            raise UntrustedFolder(
                file_name,
                f"tensor {tensor.name[:200]} ends at byte {stop} of a file of {file_size_bytes}",
                "complete the download",
            )
    expected = data_start
    for tensor in tensors:
        label = f"tensor {tensor.name[:200]}"
        if tensor.offset_bytes < expected:
            raise UntrustedFolder(file_name, f"{label} overlaps another", _DOWNLOAD_AGAIN)
        if tensor.offset_bytes > expected:
            raise UntrustedFolder(file_name, f"{label} follows a gap", _DOWNLOAD_AGAIN)
        expected += tensor.size_bytes
    if expected != file_size_bytes:
        raise UntrustedFolder(
            file_name, f"{file_size_bytes - expected} bytes belong to no tensor", _DOWNLOAD_AGAIN
        )
