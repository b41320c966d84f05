"""A model whose every layer mixes a token with all that came before it, without a tensor.

Layer l turns x_l(p) into a hash of x_l(0) ... x_l(p), all read back from KV: a lost, doubled,
stale or foreign position in any layer of any stage changes every token behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path

from shoal_engine.blocks import BlockPool, SequenceKv
from shoal_engine.sampling import Sampled
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.backends.base import StepInput, StepOutput, StepRow

VOCAB_SIZE = 997
KV_FORMAT = "layered"
# One token in a hundred or so ends a reply before its limit.
STOP_IDS = frozenset(range(2, 12))
_BYTES = 8
_WIDTH = _BYTES // 4


def _layer(index: int) -> blake2b:
    return blake2b(digest_size=_BYTES, person=index.to_bytes(4, "little"))


@cache
def expected_ids(prompt: tuple[int, ...], token_count: int, layer_count: int) -> tuple[int, ...]:
    """What the model says behind `prompt`, up to its first stop id or `token_count` tokens."""
    layers = [_layer(index) for index in range(layer_count)]
    value = b""

    def feed(token_id: int) -> bytes:
        value = struct.pack("<Q", token_id)
        for layer in layers:
            layer.update(value)
            value = layer.digest()
        return value

    for token_id in prompt:
        value = feed(token_id)
    said: list[int] = []
    while len(said) < token_count:
        said.append(_token(value))
        if said[-1] in STOP_IDS:
            break
        value = feed(said[-1])
    return tuple(said)


def _token(value: bytes) -> int:
    return int.from_bytes(value, "little") % VOCAB_SIZE


class LayeredBackend:
    """Layers [layer_start, layer_stop) of the model, with KV in blocks."""

    def __init__(
        self,
        layer_start: int,
        layer_stop: int,
        layer_count: int,
        *,
        block_count: int,
        block_size_tokens: int,
        context_length: int,
        now: Callable[[], float],
    ) -> None:
        self.layer_start = layer_start
        self.layer_stop = layer_stop
        self.layer_count = layer_count
        self.width = _WIDTH
        self.vocab_size = VOCAB_SIZE
        self.context_length = context_length
        self.eos_token_ids = STOP_IDS
        self.block_size_tokens = block_size_tokens
        self.weight_bytes = 0
        self.head_layers = 0.0
        self.model_folder: Path | None = None
        self.kv_format = KV_FORMAT
        self.pool = BlockPool(block_count, block_size_tokens, now)
        size_bytes = block_count * block_size_tokens * _BYTES
        self._held = {layer: bytearray(size_bytes) for layer in range(layer_start, layer_stop)}

    @property
    def blocks_total(self) -> int:
        return self.pool.block_count

    @property
    def blocks_free(self) -> int:
        return self.pool.free_count

    def run(self, step: StepInput) -> StepOutput:
        values = self._incoming(step)
        assert self.layer_start <= step.layers.start < step.layers.stop <= self.layer_stop
        sampled: list[Sampled | None] = []
        outgoing: list[bytes] = []
        start = 0
        for row in step.rows:
            found = self._row(row, step.layers, values[start : start + row.count])
            start += row.count
            outgoing += found
            wants_token = row.sampling is not None
            sampled.append(Sampled(_token(found[-1]), None, (), False) if wants_token else None)
        if step.layers.is_last(self.layer_count):
            return StepOutput(sampled=sampled)
        return StepOutput(activations=b"".join(outgoing))

    def spoil(self, layer: int, block: int) -> None:
        """Change one byte of a block, as a mistake would."""
        self._held[layer][block * self.block_size_tokens * _BYTES] ^= 1

    def _incoming(self, step: StepInput) -> list[bytes]:
        if step.layers.is_first:
            return [struct.pack("<Q", token_id) for token_id in step.token_ids]
        joined = b"".join(step.activations)
        return [joined[at : at + _BYTES] for at in range(0, len(joined), _BYTES)]

    def _row(self, row: StepRow, layers: LayerRange, values: list[bytes]) -> list[bytes]:
        assert row.position == row.kv.length, "a row begins where its KV ends"
        assert row.position + row.count <= row.kv.capacity, "a row fits its blocks"
        for source, target in row.kv.copies:
            self._copy(source, target)
        for layer in range(layers.start, layers.stop):
            values = self._through(layer, row.kv, row.position, values)
        row.kv.length += row.count
        return values

    def _through(
        self, layer: int, kv: SequenceKv, position: int, values: Sequence[bytes]
    ) -> list[bytes]:
        held = self._held[layer]
        size_bytes = self.block_size_tokens * _BYTES
        blocks = kv.blocks[: -(-position // self.block_size_tokens)]
        before = b"".join(held[block * size_bytes : (block + 1) * size_bytes] for block in blocks)
        mixed = _layer(layer)
        mixed.update(before[: position * _BYTES])
        out = []
        for offset, value in enumerate(values, position):
            block, slot = divmod(offset, self.block_size_tokens)
            at = kv.blocks[block] * size_bytes + slot * _BYTES
            held[at : at + _BYTES] = value
            mixed.update(value)
            out.append(mixed.digest())
        return out

    def _copy(self, source: int, target: int) -> None:
        size_bytes = self.block_size_tokens * _BYTES
        for held in self._held.values():
            held[target * size_bytes : (target + 1) * size_bytes] = held[
                source * size_bytes : (source + 1) * size_bytes
            ]
