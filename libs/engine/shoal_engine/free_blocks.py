"""Which free KV block is given next.

Owns the set of free blocks and the policy that keeps a sequence's blocks consecutive, because
attention reads consecutive blocks in place and must copy others. Knows nothing of holders.
"""

from collections.abc import Iterable

import numpy as np


class FreeBlocks:
    """Free blocks out of [0, block_count).

    A sequence that grows gets the blocks right behind its last one. A new one starts in the middle
    of the longest run of free blocks, so that it and the sequence before that run can both grow.
    """

    def __init__(self, block_count: int) -> None:
        self._is_free = np.ones(block_count, dtype=np.bool_)
        self._count = block_count

    def __len__(self) -> int:
        return self._count

    def __contains__(self, block: int) -> bool:
        return 0 <= block < self._is_free.shape[0] and bool(self._is_free[block])

    def add(self, blocks: Iterable[int]) -> None:
        """Make held blocks free."""
        for block in blocks:
            assert not self._is_free[block], f"block {block} is free"
            self._is_free[block] = True
            self._count += 1

    def take(self, count: int, after: int | None = None) -> list[int]:
        """Take `count` blocks, behind block `after` as far as these are free."""
        assert count <= self._count
        taken: list[int] = []
        if after is not None:
            while len(taken) < count and after + 1 + len(taken) in self:
                taken.append(after + 1 + len(taken))
            self._hold(taken)
        while len(taken) < count:
            run = self._from_longest_run(count - len(taken))
            self._hold(run)
            taken.extend(run)
        return taken

    def _from_longest_run(self, count: int) -> list[int]:
        """At most `count` consecutive blocks; fewer when no run is that long."""
        edges = np.flatnonzero(np.diff(self._is_free, prepend=False, append=False))
        starts, stops = edges[0::2], edges[1::2]
        longest = int(np.argmax(stops - starts))
        start, stop = int(starts[longest]), int(stops[longest])
        if start > 0:
            start += max(0, stop - start - count) // 2
        return list(range(start, min(stop, start + count)))

    def _hold(self, blocks: list[int]) -> None:
        self._is_free[blocks] = False
        self._count -= len(blocks)
