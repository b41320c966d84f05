"""The sequences that hold KV on this stage.

Owns who is attached, at which attempt and position, and when a lease ends. Knows nothing of
streams; `upstream` is only kept for whoever answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from shoal.worker.v1 import pipeline_pb2
from shoal_common.clock import Clock
from shoal_engine.blocks import CacheFull, SequenceKv
from shoal_engine.sampling import SamplingState
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.backends.base import Backend
from shoal_worker_gpu.errors import KvExhausted, StaleAttempt
from shoal_worker_gpu.range_keys import RangeKeys


class SequenceKey(NamedTuple):
    """One sequence at one attempt."""

    sequence: int
    attempt: int


class Upstream(Protocol):
    """Where refusals of a sequence go: the stage before this one, or this stage's own head."""

    def refuse(self, key: SequenceKey, reason: str, detail: str, node_id: str) -> None: ...


@dataclass
class StageSequence:
    """What one stage keeps of a sequence.

    layers: those of the engine's that it runs through. next_position: the first position not yet
    accepted; kv.length follows when it is computed. route: the stages behind this one, in order.
    keys: prefix keys of its complete blocks, as far as the head has told them; pool_keys: the same
    as the pool knows them. has_started: its first rows have come.
    """

    key: SequenceKey
    kv: SequenceKv
    layers: LayerRange
    head_incarnation: str
    route: tuple[pipeline_pb2.PipelineStage, ...]
    upstream: Upstream
    sampling: SamplingState | None
    lease_s: float
    lease_ends_at: float
    keys: Sequence[bytes] = ()
    pool_keys: Sequence[bytes] = ()
    next_position: int = 0
    has_started: bool = False


class SequenceTable:
    """At most one attempt of each sequence; every entry holds its blocks until it leaves."""

    def __init__(self, backend: Backend, clock: Clock) -> None:
        self._pool = backend.pool
        self._range_keys = RangeKeys(LayerRange(backend.layer_start, backend.layer_stop))
        self._clock = clock
        self._entries: dict[int, StageSequence] = {}
        self._computing: frozenset[SequenceKey] = frozenset()
        self._leaving: list[StageSequence] = []
        self._is_settled = asyncio.Event()
        self._is_settled.set()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[StageSequence]:
        return iter(list(self._entries.values()))

    def get(self, key: SequenceKey) -> StageSequence | None:
        entry = self._entries.get(key.sequence)
        return entry if entry is not None and entry.key == key else None

    def attach(
        self,
        key: SequenceKey,
        block_count: int,
        *,
        head_incarnation: str,
        route: tuple[pipeline_pb2.PipelineStage, ...],
        upstream: Upstream,
        sampling: SamplingState | None,
        lease_s: float,
        keys: Sequence[bytes] = (),
        token_count: int = 1,
        layers: LayerRange | None = None,
    ) -> StageSequence:
        """Enter a sequence with `block_count` blocks, those remembered by `keys` among them.

        token_count: tokens known; at least the last of them will be computed. layers: those of
        the engine's that it runs through; None for all.

        A higher attempt evicts a lower one; the same attempt again is answered with what stands.
        Raises StaleAttempt for a lower one, KvExhausted with nothing taken.
        """
        present = self._entries.get(key.sequence)
        if present is not None:
            if present.key.attempt > key.attempt:
                raise StaleAttempt(f"attempt {present.key.attempt} replaced {key.attempt}")
            if present.key == key:
                return present
            self.detach(present.key)
        layers = layers or self._range_keys.whole
        pool_keys = self._range_keys.marked(keys, layers)
        try:
            kv = self._pool.attach(block_count, pool_keys, token_count - 1)
        except CacheFull as err:
            raise self._exhausted(block_count) from err
        entry = StageSequence(
            key=key,
            kv=kv,
            layers=layers,
            head_incarnation=head_incarnation,
            route=route,
            upstream=upstream,
            sampling=sampling,
            lease_s=lease_s,
            lease_ends_at=self._clock.monotonic() + lease_s,
            keys=keys,
            pool_keys=pool_keys,
            next_position=kv.length,
        )
        self._entries[key.sequence] = entry
        return entry

    def grow(self, key: SequenceKey, block_count: int) -> StageSequence:
        """Make the sequence hold `block_count` blocks in all. Idempotent."""
        entry = self.get(key)
        if entry is None:
            raise StaleAttempt("it is not attached")
        missing = block_count - len(entry.kv.blocks)
        if missing > 0:
            try:
                self._pool.grow(entry.kv, missing)
            except CacheFull as err:
                raise self._exhausted(missing) from err
        return entry

    def start(self, entry: StageSequence, position: int) -> None:
        """The sequence's first rows begin at `position`, which all stages have agreed on.

        Raises StaleAttempt when this stage does not hold what lies before, KvExhausted.
        """
        if position > entry.kv.length:
            raise StaleAttempt(f"it starts at {position}, {entry.kv.length} positions are held")
        try:
            self._pool.start_at(entry.kv, position)
        except CacheFull as err:
            raise self._exhausted(err.blocks_asked) from err
        entry.next_position = position
        entry.has_started = True

    @property
    def is_freeing(self) -> bool:
        """Sequences have left whose blocks come back when the step that reads them ends."""
        return bool(self._leaving)

    async def freed(self) -> None:
        """Wait until nothing is being freed."""
        await self._is_settled.wait()

    async def grow_when_free(self, key: SequenceKey, block_count: int) -> StageSequence:
        """`grow`, with blocks that are being freed if need be."""
        try:
            return self.grow(key, block_count)
        except KvExhausted:
            if not self.is_freeing:
                raise
        await self.freed()
        return self.grow(key, block_count)

    def detach(self, key: SequenceKey, keys: Sequence[bytes] = ()) -> StageSequence | None:
        """Free the sequence's blocks. Unknown keys are nothing to do.

        keys: of all its complete blocks, when the head knows more of them by now.
        """
        entry = self.get(key)
        if entry is None:
            return None
        if keys:
            entry.keys = keys
            entry.pool_keys = self._range_keys.marked(keys, entry.layers)
        del self._entries[key.sequence]
        if key in self._computing:
            self._leaving.append(entry)
            self._is_settled.clear()
        else:
            self._pool.detach(entry.kv, entry.pool_keys)
        return entry

    @property
    def computing(self) -> frozenset[SequenceKey]:
        """The sequences of the step that is being computed now."""
        return self._computing

    def begin_step(self, keys: Iterable[SequenceKey]) -> None:
        """The compute thread reads these sequences' KV until `end_step`: it outlives a detach."""
        assert not self._computing, "one step at a time"
        self._computing = frozenset(keys)

    def end_step(self) -> None:
        """Remember what the step has filled, and free what was detached meanwhile."""
        for key in self._computing:
            entry = self.get(key)
            if entry is not None:
                self._pool.copied(entry.kv)
                self._pool.remember(entry.kv, entry.pool_keys)
        self._computing = frozenset()
        leaving, self._leaving = self._leaving, []
        for entry in leaving:
            self._pool.detach(entry.kv, entry.pool_keys)
        self._is_settled.set()

    def renew(self, head_incarnation: str) -> None:
        """The head is alive: its sequences may stay for another lease."""
        now = self._clock.monotonic()
        for entry in self._entries.values():
            if entry.head_incarnation == head_incarnation:
                entry.lease_ends_at = now + entry.lease_s

    def expired(self) -> list[StageSequence]:
        """Sequences whose head has been silent for longer than their lease."""
        now = self._clock.monotonic()
        return [entry for entry in self._entries.values() if entry.lease_ends_at < now]

    def _exhausted(self, wanted: int) -> KvExhausted:
        return KvExhausted(wanted, self._pool.free_count, self._pool.block_count)
