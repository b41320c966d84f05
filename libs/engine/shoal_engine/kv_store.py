"""The tensors behind the KV blocks.

Owns the memory of paged keys and values, one pair of tensors per layer. Who holds a block is not
known here (`blocks`), nor what a step wants from it (`step_plan`).
"""

import math
import mmap
from collections.abc import Sequence

import torch

from shoal_engine.cache_spec import CacheSpec
from shoal_engine.shape import LayerRange


class PagedKvStore:
    """Keys and values of a stage's layers in blocks.

    Each layer has two tensors (S, KV heads, head width), S = block_count * block_size_tokens
    slots; block b holds slots [b * block_size_tokens, (b + 1) * block_size_tokens). Layers are
    addressed by their absolute index. On a CPU, memory is committed when a block is first written.
    """

    def __init__(
        self,
        specs: Sequence[CacheSpec],
        block_count: int,
        block_size_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.block_count = block_count
        self.block_size_tokens = block_size_tokens
        self.bytes_per_block = (
            sum(spec.elements_per_position for spec in specs) * block_size_tokens * dtype.itemsize
        )
        slot_count = block_count * block_size_tokens
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        for spec in specs:
            size = (slot_count, spec.kv_head_count, spec.head_dim)
            self._keys[spec.layer] = _zeros(size, dtype, device)
            self._values[spec.layer] = _zeros(size, dtype, device)

    def write(
        self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Store `key` and `value` (T, KV heads, head width) of one layer at `slots` (T,)."""
        self._keys[layer].index_copy_(0, slots, key)
        self._values[layer].index_copy_(0, slots, value)

    def copy(self, pairs: Sequence[tuple[int, int]], layers: LayerRange) -> None:
        """Copy whole blocks, (source, target), on `layers`; targets are nobody's sources."""
        device = self._keys[layers.start].device
        sources, targets = torch.tensor(pairs, dtype=torch.int64, device=device).unbind(1)
        for layer in range(layers.start, layers.stop):
            for slots in (self._keys[layer], self._values[layer]):
                paged = self._paged(slots)
                paged.index_copy_(0, targets, paged.index_select(0, sources))

    def view(self, layer: int, first_slot: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of `count` consecutive slots, without copying.

        Returns two tensors (count, KV heads, head width), valid until the next `write`.
        """
        last_slot = first_slot + count
        return self._keys[layer][first_slot:last_slot], self._values[layer][first_slot:last_slot]

    def gather(
        self, layer: int, blocks: torch.Tensor, offset: int, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy the slots [offset, offset + count) of `blocks` laid end to end; shapes as `view`."""
        return (
            self._gather(self._keys[layer], blocks, offset, count),
            self._gather(self._values[layer], blocks, offset, count),
        )

    def _gather(
        self, slots: torch.Tensor, blocks: torch.Tensor, offset: int, count: int
    ) -> torch.Tensor:
        paged = self._paged(slots)
        return paged.index_select(0, blocks).flatten(0, 1)[offset : offset + count]

    def _paged(self, slots: torch.Tensor) -> torch.Tensor:
        return slots.view(self.block_count, self.block_size_tokens, *slots.shape[1:])


def _zeros(size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros that take memory only when they are written; torch's own on a CPU write them all."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(size) * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).view(size)
