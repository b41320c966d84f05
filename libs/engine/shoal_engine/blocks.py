"""Who holds which KV block.

Owns the accounting of fixed-size blocks: allocation, sharing by reference count, and which blocks
hold a known prefix. It knows neither tensors nor what a prefix key stands for; the tensors behind
the blocks are in `kv_store`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

from shoal_engine.errors import CacheFull
from shoal_engine.free_blocks import FreeBlocks

__all__ = ["TILE_TOKENS", "BlockPool", "CacheFull", "SequenceKv"]

TILE_TOKENS = 512
"""Positions that attention reads as one piece. Prefixes are shared in whole tiles and copied
below, so that the keys of a tile lie side by side and decoding copies nothing per step."""


@dataclass
class SequenceKv:
    """The KV of one sequence on one stage.

    blocks: the sequence's blocks in order of position.
    length: positions stored so far, counted from 0; `Stage.forward` moves it.
    block_size_tokens: positions per block; the pool's. `BlockPool.attach` fills it in.
    shared_count: leading blocks that others may read as well; never written.
    copies: (source, target) blocks that the next `Stage.forward` copies before it writes.
    """

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    block_size_tokens: int = 16
    shared_count: int = 0
    copies: list[tuple[int, int]] = field(default_factory=list)

    @property
    def capacity(self) -> int:
        """Positions for which the sequence holds blocks."""
        return len(self.blocks) * self.block_size_tokens


class BlockPool:
    """Reference-counted blocks [0, block_count), some of them remembered by a key.

    Invariant: every block is free, idle (remembered, count 0) or held (count > 0). Idle blocks are
    given away when no free one is left, the least recently used first and the end of a prefix
    before its beginning. Not thread-safe: one thread owns the accounts. now: seconds, for the age
    of idle blocks.
    """

    def __init__(
        self,
        block_count: int,
        block_size_tokens: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        assert block_count > 0
        assert block_size_tokens > 0
        self.block_count = block_count
        self.block_size_tokens = block_size_tokens
        self._now = now
        self._free = FreeBlocks(block_count)
        self._holders = [0] * block_count
        self._idle: OrderedDict[int, float] = OrderedDict()
        self._keys: dict[int, bytes] = {}
        self._by_key: dict[bytes, int] = {}
        self._changes: dict[bytes, bool] = {}

    @property
    def free_count(self) -> int:
        """Blocks that nobody holds, idle ones included."""
        return len(self._free) + len(self._idle)

    @property
    def used_count(self) -> int:
        """Blocks with at least one holder."""
        return self.block_count - self.free_count

    @property
    def remembered_count(self) -> int:
        """Blocks that hold a known prefix."""
        return len(self._keys)

    def blocks_for(self, token_count: int) -> int:
        """Blocks that `token_count` positions need."""
        return -(-token_count // self.block_size_tokens)

    def sequence(self, token_count: int = 0) -> SequenceKv:
        """A new empty sequence with room for `token_count` positions. Raises CacheFull."""
        return self.attach(self.blocks_for(token_count))

    def attach(
        self, block_count: int, keys: Sequence[bytes] = (), position_max: int = 0
    ) -> SequenceKv:
        """A sequence of `block_count` blocks that starts with what is remembered of `keys`.

        keys: of its complete blocks, in order. position_max: where it must start to compute at
        the latest; its `length` says where it can. Raises CacheFull, with nothing taken.
        """
        size = self.block_size_tokens
        hit = self.match(keys[:block_count])
        position = min(len(hit) * size, position_max)
        kept = self._whole_tiles(position)
        used = hit[: self.blocks_for(position)]
        self.retain(used)
        try:
            own = self.allocate(block_count - kept)
        except CacheFull:
            self.release(used)
            if not used:
                raise
            # Copying needs the prefix and its copy at once; computing it anew does not.
            return self.attach(block_count)
        return SequenceKv(
            blocks=used[:kept] + own,
            length=position,
            block_size_tokens=size,
            shared_count=kept,
            copies=list(zip(used[kept:], own, strict=False)),
        )

    def start_at(self, kv: SequenceKv, position: int) -> None:
        """Give up what a new sequence holds from `position` on, where it will be computed anew.

        Raises CacheFull, with nothing changed, when that needs blocks of its own.
        """
        assert position <= kv.length
        if position == kv.length:
            return
        kept = min(kv.shared_count, self._whole_tiles(position))
        unshared = kv.blocks[kept : kv.shared_count]
        own = self.allocate(len(unshared))
        kv.copies = [*zip(unshared, own, strict=True), *kv.copies]
        dropped = kv.copies[self.blocks_for(position) - kept :]
        kv.copies = kv.copies[: self.blocks_for(position) - kept]
        self.release(source for source, _ in dropped)
        kv.blocks[kept : kv.shared_count] = own
        kv.shared_count = kept
        kv.length = position

    def copied(self, kv: SequenceKv) -> None:
        """The copies of a sequence are made: let go of their sources."""
        self.release(source for source, _ in reversed(kv.copies))
        kv.copies = []

    def grow(self, kv: SequenceKv, block_count: int) -> None:
        """Give a sequence so many blocks more. Raises CacheFull, with nothing taken."""
        kv.blocks.extend(self.allocate(block_count, kv.blocks[-1] if kv.blocks else None))

    def detach(self, kv: SequenceKv, keys: Sequence[bytes] = ()) -> None:
        """Let go of everything a sequence holds, remembering its complete blocks by `keys`."""
        self.remember(kv, keys)
        self.copied(kv)
        self.release(reversed(kv.blocks))
        for key in reversed(keys):
            # The whole chain was used just now, whoever's blocks it lies in.
            block = self._by_key.get(key)
            if block is not None and block in self._idle:
                self._idle[block] = self._now()
                self._idle.move_to_end(block)
        kv.blocks = []
        kv.length = kv.shared_count = 0

    def remember(self, kv: SequenceKv, keys: Sequence[bytes]) -> None:
        """Make the sequence's complete blocks findable by their keys; known ones stay as found."""
        for block, key in zip(kv.blocks[: kv.length // self.block_size_tokens], keys, strict=False):
            if key not in self._by_key and block not in self._keys:
                self._keys[block] = key
                self._by_key[key] = block
                self._note(key, is_stored=True)

    def match(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the longest remembered prefix; valid until the next allocation."""
        blocks = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def forget_idle(self, idle_s: float) -> int:
        """Free blocks that were last used longer ago than `idle_s`; returns how many."""
        count = 0
        while self._idle and next(iter(self._idle.values())) < self._now() - idle_s:
            self._evict(next(iter(self._idle)))
            count += 1
        return count

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        """Take `count` blocks, each held once, behind `after` if possible.

        Raises CacheFull, with the pool untouched.
        """
        assert count >= 0
        if count > self.free_count:
            raise CacheFull(count, self.free_count, self.block_count)
        self._make_free(count, after)
        taken = self._free.take(count, after)
        for block in taken:
            self._holders[block] = 1
        return taken

    def retain(self, blocks: Iterable[int]) -> None:
        """Hold blocks once more that are held or idle."""
        for block in blocks:
            assert self._holders[block] > 0 or block in self._idle, f"block {block} is free"
            self._idle.pop(block, None)
            self._holders[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Let go of blocks; with its last holder gone a block is idle or free."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is free"
            self._holders[block] -= 1
            if self._holders[block] > 0:
                continue
            if block in self._keys:
                self._idle[block] = self._now()
            else:
                self._free.add([block])

    def take_changes(self) -> dict[bytes, bool]:
        """Keys stored (True) and forgotten (False) since the last call, net."""
        changes, self._changes = self._changes, {}
        return changes

    def remembered(self) -> list[bytes]:
        """All keys that would be found now."""
        return list(self._by_key)

    def _whole_tiles(self, position: int) -> int:
        """Blocks of the whole tiles before `position`."""
        tile_blocks = max(1, TILE_TOKENS // self.block_size_tokens)
        return position // (tile_blocks * self.block_size_tokens) * tile_blocks

    def _make_free(self, count: int, after: int | None) -> None:
        """Evict until `count` blocks are free: those behind `after`, then the oldest."""
        missing = count - len(self._free)
        if missing <= 0:
            return
        behind = [] if after is None else range(after + 1, after + 1 + count)
        wanted = [block for block in behind if block in self._idle]
        others = (block for block in self._idle if block not in wanted)
        for block in list(islice(chain(wanted, others), missing)):
            self._evict(block)

    def _evict(self, block: int) -> None:
        del self._idle[block]
        key = self._keys.pop(block)
        del self._by_key[key]
        self._note(key, is_stored=False)
        self._free.add([block])

    def _note(self, key: bytes, *, is_stored: bool) -> None:
        """A change that undoes one nobody has taken yet is none: the notes stay bounded."""
        if self._changes.get(key) == (not is_stored):
            del self._changes[key]
        else:
            self._changes[key] = is_stored
