"""Keeps apart the prefixes of an engine's layers and of parts of them, in one pool of blocks.

A pipeline may run some of an engine's layers only. Its blocks hold KV of these, so that they must
not be found by a pipeline that runs others, though the keys of their tokens are the same.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from shoal_common.prefix import KEY_BYTES
from shoal_engine.shape import LayerRange

_SUFFIX = struct.Struct("<HH")


class RangeKeys:
    """Keys as a pool remembers them: a part's carry its range, those of all layers are as told."""

    def __init__(self, whole: LayerRange) -> None:
        self.whole = whole

    def marked(self, keys: Sequence[bytes], layers: LayerRange) -> Sequence[bytes]:
        """The pool's keys for blocks of `layers`."""
        if layers == self.whole:
            return keys
        suffix = _SUFFIX.pack(layers.start, layers.stop)
        return [key + suffix for key in keys]

    def read(self, pool_key: bytes) -> tuple[LayerRange, bytes]:
        """The layers whose KV a remembered block holds, and the key of its tokens."""
        if len(pool_key) != KEY_BYTES + _SUFFIX.size:
            return self.whole, pool_key
        return LayerRange(*_SUFFIX.unpack(pool_key[KEY_BYTES:])), pool_key[:KEY_BYTES]
