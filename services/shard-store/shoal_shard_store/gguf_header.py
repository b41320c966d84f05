"""The header of a GGUF file, read with suspicion from as much of it as is here.

Owns the format's rules (versions 2 and 3, little-endian): magic, counts, typed metadata, tensor
descriptions, then data at the next multiple of the alignment. Knows nothing of models.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import Any

from shoal_shard_store.errors import UntrustedFolder

HEADER_SIZE_BYTES_MAX = 128 << 20
BLOCK_SIZES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
"""Type number: name, values in a block, bytes of a block."""

_MAGIC = b"GGUF"
_COUNT_MAX = 1 << 17
_ARRAY_LENGTH_MAX = 1 << 22
_TEXT_SIZE_BYTES_MAX = 4 << 20
_DIMENSION_MAX = 1 << 40
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_DOWNLOAD_AGAIN = "download it again"


class HeaderCut(Exception):
    """The header goes on behind the bytes that are here."""


@dataclass(frozen=True)
class GgufTensor:
    """Bytes [offset_bytes, offset_bytes + size_bytes) of the file. `shape` has rows first."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a file says of itself."""

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]


def parse_gguf(data: bytes, file_name: str, file_size_bytes: int) -> GgufHeader:
    """Read a header from the first bytes of a file of that size.

    Raises HeaderCut when more bytes are needed, UntrustedFolder for anything out of the format.
    """
    reader = _Reader(data, file_name)
    if reader.take(4) != _MAGIC:
        raise reader.refused("it is no GGUF file", "check the name")
    version = reader.scalar("I")
    if version not in (2, 3):
        problem = f"GGUF version {version} is none of 2 and 3, little-endian"
        raise reader.refused(problem, "convert it again with a present llama.cpp")
    tensor_count, metadata_count = reader.count("tensors"), reader.count("entries")
    metadata: dict[str, Any] = {}
    for _ in range(metadata_count):
        key = reader.text()
        if key in metadata:
            raise reader.refused(f"{key[:100]} is there twice", _DOWNLOAD_AGAIN)
        metadata[key] = reader.value(reader.scalar("I"))
    described = [reader.tensor() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 16 or alignment % 8:
        raise reader.refused("its alignment is impossible", _DOWNLOAD_AGAIN)
    start = -(-reader.position // alignment) * alignment
    tensors = [_placed(reader, start, alignment, *each) for each in described]
    _check_layout(reader, tensors, file_size_bytes)
    return GgufHeader(metadata, tuple(tensors))


def _placed(
    reader: _Reader, start: int, alignment: int, name: str, dims: list[int], kind: int, offset: int
) -> GgufTensor:
    label = f"tensor {name[:100]}"
    if kind not in BLOCK_SIZES:
        raise reader.refused(f"{label} has the unknown type {kind}", "choose another quantisation")
    type_name, values, size_bytes = BLOCK_SIZES[kind]
    if not dims or dims[0] % values:
        raise reader.refused(f"{label} is not made of whole {type_name} blocks", _DOWNLOAD_AGAIN)
    if offset % alignment:
        raise reader.refused(f"{label} is not aligned", _DOWNLOAD_AGAIN)
    # The file names the fastest dimension first.
    shape = tuple(reversed(dims))
    return GgufTensor(name, type_name, shape, start + offset, prod(dims) // values * size_bytes)


def _check_layout(reader: _Reader, tensors: list[GgufTensor], file_size_bytes: int) -> None:
    """Every tensor inside the file, none over another, no name twice."""
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise reader.refused("two tensors have one name", _DOWNLOAD_AGAIN)
    end = 0
    for tensor in sorted(tensors, key=lambda each: each.offset_bytes):
        label = f"tensor {tensor.name[:100]}"
        if tensor.offset_bytes < end:
            raise reader.refused(f"{label} overlaps another", _DOWNLOAD_AGAIN)
        end = tensor.offset_bytes + tensor.size_bytes
        if end > file_size_bytes:
            problem = f"{label} ends at byte {end} of a file of {file_size_bytes}"
            raise reader.refused(problem, "complete the download")


class _Reader:
    """A position in bytes that may end too early."""

    def __init__(self, data: bytes, file_name: str) -> None:
        self._data = data
        self._file_name = file_name
        self.position = 0

    def refused(self, problem: str, remedy: str) -> UntrustedFolder:
        return UntrustedFolder(self._file_name, problem, remedy)

    def take(self, size_bytes: int) -> bytes:
        stop = self.position + size_bytes
        if stop > HEADER_SIZE_BYTES_MAX:
            raise self.refused("its header is too long", _DOWNLOAD_AGAIN)
        if stop > len(self._data):
            raise HeaderCut
        taken = self._data[self.position : stop]
        self.position = stop
        return taken

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(code)))
        return value

    def count(self, what: str) -> int:
        value: int = self.scalar("Q")
        if value > _COUNT_MAX:
            raise self.refused(f"it claims {value} {what}", _DOWNLOAD_AGAIN)
        return value

    def text(self) -> str:
        size_bytes = self.scalar("Q")
        if size_bytes > _TEXT_SIZE_BYTES_MAX:
            raise self.refused(f"it has a text of {size_bytes} bytes", _DOWNLOAD_AGAIN)
        # Pieces of vocabularies may be bytes that are no text by themselves.
        return self.take(size_bytes).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise self.refused(f"its metadata has the unknown type {kind}", _DOWNLOAD_AGAIN)
        return self.scalar(_SCALARS[kind])

    def array(self) -> list[Any]:
        kind, length = self.scalar("I"), self.scalar("Q")
        if length > _ARRAY_LENGTH_MAX:
            raise self.refused(f"it has a list of {length} entries", _DOWNLOAD_AGAIN)
        if kind == _STRING:
            return [self.text() for _ in range(length)]
        if kind not in _SCALARS:
            raise self.refused(f"it has a list of the unknown type {kind}", _DOWNLOAD_AGAIN)
        code = _SCALARS[kind]
        data = self.take(length * struct.calcsize(code))
        return list(struct.unpack(f"<{length}{code}", data))

    def tensor(self) -> tuple[str, list[int], int, int]:
        name = self.text()
        dimension_count = self.scalar("I")
        if not 1 <= dimension_count <= 4:
            raise self.refused(f"tensor {name[:100]} has an impossible shape", _DOWNLOAD_AGAIN)
        dims = [self.scalar("Q") for _ in range(dimension_count)]
        if not all(0 < size <= _DIMENSION_MAX for size in dims):
            raise self.refused(f"tensor {name[:100]} has an impossible shape", _DOWNLOAD_AGAIN)
        return name, dims, self.scalar("I"), self.scalar("Q")
