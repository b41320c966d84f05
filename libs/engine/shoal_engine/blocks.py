"""Who holds which KV block.

Owns the accounting of fixed-size blocks: allocation, sharing by reference count, release. It knows
neither tensors nor sequences' text; the tensors behind the blocks are in `kv_store`.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal_engine.errors import CacheFull

__all__ = ["BlockPool", "CacheFull", "SequenceKv"]


@dataclass
class SequenceKv:
    """The KV of one sequence on one stage.

    blocks: the sequence's blocks in order of position.
    length: positions stored so far, counted from 0; `Stage.forward` moves it.
    block_size_tokens: positions per block; the pool's. `BlockPool.sequence` fills it in.
    """

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    block_size_tokens: int = 16

    @property
    def capacity(self) -> int:
        """Positions for which the sequence holds blocks."""
        return len(self.blocks) * self.block_size_tokens


class BlockPool:
    """Reference-counted blocks [0, block_count).

    Invariant: every block is either free (count 0) or held (count > 0). The lowest free blocks are
    given first, so that a sequence admitted at once tends to hold consecutive blocks, which
    attention reads without copying. Not thread-safe: one thread owns the accounts.
    """

    def __init__(self, block_count: int, block_size_tokens: int) -> None:
        assert block_count > 0
        assert block_size_tokens > 0
        self.block_count = block_count
        self.block_size_tokens = block_size_tokens
        self._free = list(range(block_count))
        self._holders = [0] * block_count

    @property
    def free_count(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def used_count(self) -> int:
        """Blocks with at least one holder."""
        return self.block_count - len(self._free)

    def blocks_for(self, token_count: int) -> int:
        """Blocks that `token_count` positions need."""
        return -(-token_count // self.block_size_tokens)

    def sequence(self, token_count: int = 0) -> SequenceKv:
        """A new empty sequence with room for `token_count` positions. Raises CacheFull."""
        return SequenceKv(
            self.allocate(self.blocks_for(token_count)), block_size_tokens=self.block_size_tokens
        )

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks, each held once. Raises CacheFull, with the pool untouched."""
        assert count >= 0
        if count > len(self._free):
            raise CacheFull(count, len(self._free), self.block_count)
        taken = [heapq.heappop(self._free) for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def retain(self, blocks: Iterable[int]) -> None:
        """Hold blocks that somebody holds already once more."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is free"
            self._holders[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Let go of blocks; the last holder's release makes a block free."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is free"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                heapq.heappush(self._free, block)
