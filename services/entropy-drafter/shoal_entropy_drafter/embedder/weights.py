"""Where the tensors of a safetensors file lie, so that they can be mapped instead of read."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES_MAX = 1 << 20


class BrokenWeights(Exception):
    """The file is not what its name says; the message tells why."""


@dataclass(frozen=True)
class Place:
    """A float32 tensor in the file: `size_bytes` from `offset_bytes` on."""

    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int


def read_places(path: Path) -> Mapping[str, Place]:
    """Every float32 tensor of the file at `path`, by name. Raises BrokenWeights, OSError."""
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        header_bytes = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= header_bytes <= HEADER_BYTES_MAX:
            raise BrokenWeights(f"{path} has no safetensors header")
        header = file.read(header_bytes)
    if len(header) < header_bytes:
        raise BrokenWeights(f"{path} ends within its header")
    try:
        tensors = json.loads(header)
        places = {
            name: _place(about, 8 + header_bytes)
            for name, about in tensors.items()
            if name != "__metadata__" and about["dtype"] == "F32"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise BrokenWeights(f"{path} has a safetensors header that cannot be read") from err
    for name, place in places.items():
        if place.offset_bytes + place.size_bytes > file_bytes:
            raise BrokenWeights(f"{path} ends before {name}: it has {file_bytes} bytes")
    return places


def _place(about: Mapping[str, list[int]], data_start: int) -> Place:
    start, stop = about["data_offsets"]
    shape = tuple(about["shape"])
    count = 1
    for size in shape:
        count *= size
    if not 0 <= start <= stop or stop - start != 4 * count:
        raise ValueError("offsets and shape disagree")
    return Place(shape, data_start + start, stop - start)
