"""How many layers a GGUF file has, from as little of its header as says so.

Whether the file may be trusted, and everything else in it, is for the shard-store to say.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from shoal_cli.errors import BadOptions

_LAYER_COUNT_KEY = b".block_count"
_KEY_SIZE_BYTES_MAX = 65536
_UINT32, _UINT64, _STRING, _ARRAY = 4, 10, 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a scalar, by the number of its type."""


class _Unreadable(ValueError):
    """What stands there is no GGUF header."""


def layer_count_of(path: Path) -> int:
    """Layers of the model in a file. Raises BadOptions."""
    try:
        with path.open("rb") as file:
            return _layer_count(file)
    except _Unreadable as err:
        raise BadOptions(f"{path} is no GGUF file ({err}): download it again") from err
    except OSError as err:
        raise BadOptions(f"{path} cannot be read: {err.strerror}") from err


def _layer_count(file: BinaryIO) -> int:
    if file.read(4) != b"GGUF":
        raise _Unreadable("it begins otherwise")
    version, _, entry_count = struct.unpack("<IQQ", _take(file, 20))
    if version not in (2, 3):
        raise _Unreadable(f"version {version} is none of 2 and 3, little-endian")
    for _ in range(entry_count):
        key_size_bytes = _number(file, "<Q")
        if key_size_bytes > _KEY_SIZE_BYTES_MAX:
            raise _Unreadable("a key is too long")
        key, kind = _take(file, key_size_bytes), _number(file, "<I")
        if key.endswith(_LAYER_COUNT_KEY) and kind in (_UINT32, _UINT64):
            count = _number(file, "<I" if kind == _UINT32 else "<Q")
            if count > 0:
                return count
            raise _Unreadable("it has no layers")
        _skip(file, kind)
    raise _Unreadable("it does not say how many layers it has")


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _jump(file, _number(file, "<Q"))
    elif kind == _ARRAY:
        of, length = _number(file, "<I"), _number(file, "<Q")
        if of == _STRING:
            for _ in range(length):
                _jump(file, _number(file, "<Q"))
        else:
            _jump(file, length * _size(of))
    else:
        _jump(file, _size(kind))


def _jump(file: BinaryIO, size_bytes: int) -> None:
    """Go on behind so many bytes; the end of the file is noticed by who reads next."""
    try:
        file.seek(size_bytes, 1)
    except (OSError, OverflowError, ValueError) as err:
        raise _Unreadable("a length is impossible") from err


def _size(kind: int) -> int:
    if kind not in _SIZES:
        raise _Unreadable(f"a value has the unknown type {kind}")
    return _SIZES[kind]


def _number(file: BinaryIO, code: str) -> int:
    value: int = struct.unpack(code, _take(file, struct.calcsize(code)))[0]
    return value


def _take(file: BinaryIO, size_bytes: int) -> bytes:
    data = file.read(size_bytes)
    if len(data) < size_bytes:
        raise _Unreadable("it ends in its header")
    return data
