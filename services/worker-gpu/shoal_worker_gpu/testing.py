"""A backend without tensors: the next token is a hash of all that came before.

It keeps the accounts of a real one (blocks, positions), so that the step loop, the stage protocol
and their failures can be tested in milliseconds.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from pathlib import Path

from shoal_common.testing.engine import next_token
from shoal_engine.blocks import BlockPool, SequenceKv
from shoal_engine.sampling import Sampled
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.backends.base import StepInput, StepOutput

VOCAB_SIZE = 997
_WIDTH = 1


class HashBackend:
    """Layers [layer_start, layer_stop) of `layer_count`; hidden rows carry the ids themselves.

    What a slot holds is of the layers that wrote it: read by others, it is an error.

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
        self.head_layers = 0.0
        self.model_folder: Path | None = None
        self.kv_format = "ids"
        self.step_sizes: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.pool = BlockPool(block_count, block_size_tokens)
        self._slots: list[tuple[int, LayerRange | None]] = [(-1, None)] * (
            block_count * block_size_tokens
        )

    @property
    def blocks_total(self) -> int:
        return self.pool.block_count

    @property
    def blocks_free(self) -> int:
        return self.pool.free_count

    def run(self, step: StepInput) -> StepOutput:
        self.gate.wait()
        assert self.layer_start <= step.layers.start < step.layers.stop <= self.layer_stop
        ids = self._incoming(step)
        self.step_sizes.append(len(ids))
        sampled: list[Sampled | None] = []
        start = 0
        for row in step.rows:
            self._copy(row.kv)
            assert row.position == row.kv.length
            assert row.position + row.count <= row.kv.capacity
            if row.position:
                writer = self._slots[self._slot(row.kv, row.position - 1)][1]
                assert writer == step.layers, f"KV of {writer} is no KV of {step.layers}"
            for offset in range(row.count):
                slot = self._slot(row.kv, row.position + offset)
                self._slots[slot] = (ids[start + offset], step.layers)
            row.kv.length += row.count
            start += row.count
            sampled.append(None if row.sampling is None else self._draw(self._known(row.kv)))
        if step.layers.is_last(self.layer_count):
            return StepOutput(sampled=sampled)
        return StepOutput(activations=struct.pack(f"<{len(ids)}f", *ids))

    def _copy(self, kv: SequenceKv) -> None:
        size = self.block_size_tokens
        for source, target in kv.copies:
            held = self._slots[source * size : (source + 1) * size]
            self._slots[target * size : (target + 1) * size] = held

    def _slot(self, kv: SequenceKv, position: int) -> int:
        block, offset = divmod(position, self.block_size_tokens)
        return kv.blocks[block] * self.block_size_tokens + offset

    def _known(self, kv: SequenceKv) -> list[int]:
        return [self._slots[self._slot(kv, position)][0] for position in range(kv.length)]

    def _incoming(self, step: StepInput) -> list[int]:
        if step.layers.is_first:
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
