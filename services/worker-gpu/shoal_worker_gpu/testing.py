"""A backend without tensors: the next token is a hash of all that came before.

It keeps the accounts of a real one (blocks, positions), so that the step loop, the stage protocol
and their failures can be tested in milliseconds.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence

from shoal_common.testing.engine import next_token
from shoal_engine.blocks import BlockPool, SequenceKv
from shoal_engine.sampling import Sampled
from shoal_worker_gpu.backends.base import StepInput, StepOutput

VOCAB_SIZE = 997
_WIDTH = 1


class HashBackend:
    """Layers [layer_start, layer_stop) of `layer_count`; hidden rows carry the ids themselves.

    `gate`: cleared, it holds the compute thread inside a step until it is set again.
    """

    def __init__(
        self,
        layer_start: int = 0,
        layer_stop: int = 4,
        layer_count: int = 4,
        *,
        block_count: int = 64,
        block_size_tokens: int = 4,
        context_length: int = 256,
    ) -> None:
        self.layer_start = layer_start
        self.layer_stop = layer_stop
        self.layer_count = layer_count
        self.width = _WIDTH
        self.vocab_size = VOCAB_SIZE
        self.context_length = context_length
        self.eos_token_ids: frozenset[int] = frozenset()
        self.block_size_tokens = block_size_tokens
        self.weight_bytes = 0
        self.step_sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self._pool = BlockPool(block_count, block_size_tokens)
        self._ids: dict[int, list[int]] = {}

    @property
    def blocks_total(self) -> int:
        return self._pool.block_count

    @property
    def blocks_free(self) -> int:
        return self._pool.free_count

    def attach(self, block_count: int) -> SequenceKv:
        kv = self._pool.sequence(block_count * self.block_size_tokens)
        self._ids[id(kv)] = []
        return kv

    def grow(self, kv: SequenceKv, block_count: int) -> None:
        kv.blocks.extend(self._pool.allocate(block_count))

    def release(self, kv: SequenceKv) -> None:
        self._pool.release(kv.blocks)
        kv.blocks = []
        self._ids.pop(id(kv))

    def run(self, step: StepInput) -> StepOutput:
        self.gate.wait()
        ids = self._incoming(step)
        self.step_sizes.append(len(ids))
        sampled: list[Sampled | None] = []
        start = 0
        for row in step.rows:
            known = self._ids[id(row.kv)]
            assert row.position == len(known) == row.kv.length
            known.extend(ids[start : start + row.count])
            assert len(known) <= row.kv.capacity
            row.kv.length = len(known)
            start += row.count
            sampled.append(None if row.sampling is None else self._draw(known))
        if self.layer_stop == self.layer_count:
            return StepOutput(sampled=sampled)
        return StepOutput(activations=struct.pack(f"<{len(ids)}f", *ids))

    def _incoming(self, step: StepInput) -> list[int]:
        if self.layer_start == 0:
            return list(step.token_ids)
        joined = b"".join(step.activations)
        return [int(value) for value in struct.unpack(f"<{len(joined) // 4}f", joined)]

    def _draw(self, ids: Sequence[int]) -> Sampled:
        return Sampled(next_token(ids, VOCAB_SIZE), None, (), False)


def expected_tokens(prompt: Sequence[int], count: int) -> list[int]:
    """What any correct pipeline of hash backends answers."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(next_token(ids, VOCAB_SIZE))
    return ids[len(prompt) :]
