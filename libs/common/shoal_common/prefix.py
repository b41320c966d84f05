"""Keys by which the KV of a prefix is found again.

A block's key is a hash of its tokens and of the key before it, so that it stands for everything
from position 0 on; the first is a hash of whatever else the numbers in KV depend on. A pipeline's
head computes them for its stages, a driver to learn where its prompt would be cheap.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from blake3 import blake3

KEY_BYTES = 16


def prefix_root(model_revision: str, kv_format: str, adapter_id: str, tenant: str) -> bytes:
    """The key before a sequence's first block.

    tenant: empty where tenants share prefixes. Sharing lets one learn from timing what another
    has asked.
    """
    parts = (model_revision, kv_format, adapter_id, tenant)
    return _digest(b"".join(_framed(part.encode()) for part in parts))


class PrefixKeys:
    """The chain of one sequence's keys, extended as it grows."""

    def __init__(self, root: bytes, block_size_tokens: int) -> None:
        self._root = root
        self._block_size = block_size_tokens
        self._keys: list[bytes] = []

    def of(self, ids: Sequence[int]) -> list[bytes]:
        """Keys of the complete blocks of `ids`, which must begin with all ids seen before."""
        size = self._block_size
        for start in range(len(self._keys) * size, len(ids) - size + 1, size):
            previous = self._keys[-1] if self._keys else self._root
            tokens = struct.pack(f"<{size}I", *ids[start : start + size])
            self._keys.append(_digest(previous + tokens))
        return self._keys[: len(ids) // size]


def _digest(data: bytes) -> bytes:
    return blake3(data).digest(KEY_BYTES)


def _framed(part: bytes) -> bytes:
    return struct.pack("<I", len(part)) + part
