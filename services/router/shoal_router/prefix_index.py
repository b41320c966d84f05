"""Owns: which prefixes engines hold, as they tell it. Bounded; forgets what was longest of no use.

KV is found by the layers it is of, so that all is kept by part: engine process and layer range.
Does not know: how messages travel, which pipelines there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from shoal.worker.v1 import kv_pb2
from shoal_router.pipeline import Pipeline

Part = tuple[str, int, int]
"""Engine incarnation, layer_start, layer_stop."""


@dataclass(slots=True)
class _Held:
    """Blocks of one part, the longest unused first. sequence: of the newest message."""

    node_id: str
    sequence: int = 0
    blocks: OrderedDict[bytes, None] = field(default_factory=OrderedDict)


class PrefixIndex:
    """Invariant: at most `blocks_max` blocks over all parts.

    When there are more, the part that was longest not looked for or told of gives its longest
    unused blocks.
    """

    def __init__(self, blocks_max: int) -> None:
        self._blocks_max = blocks_max
        self._parts: OrderedDict[Part, _Held] = OrderedDict()
        self.block_count = 0

    def hear(self, changes: kv_pb2.KvChanges) -> bool:
        """Takes a message in; False when messages were missed and only a snapshot can help.

        What is known of the part is kept until then: a wrong guess costs time, never a token.
        """
        part = (changes.incarnation, changes.layer_start, changes.layer_stop)
        held = self._parts.get(part)
        known = held.sequence if held is not None else 0
        # A snapshot that was asked for may tell the state of the newest message again.
        is_told_again = changes.is_snapshot and changes.sequence == known
        if held is not None and changes.sequence <= known and not is_told_again:
            return True
        if held is None:
            held = self._parts[part] = _Held(changes.node_id)
        is_whole = changes.is_snapshot or changes.sequence == known + 1
        if changes.is_snapshot:
            self.block_count -= len(held.blocks)
            held.blocks.clear()
        for block in changes.forgotten:
            if held.blocks.pop(block, block) is None:
                self.block_count -= 1
        # Prefixes come first block first, and the first ones must be the last to go.
        for block in reversed(changes.stored):
            self.block_count += block not in held.blocks
            held.blocks[block] = None
            held.blocks.move_to_end(block)
        if is_whole:
            held.sequence = changes.sequence
        self._parts.move_to_end(part)
        self._trim()
        return is_whole

    def held_count(self, pipeline: Pipeline, blocks: Sequence[bytes]) -> int:
        """Leading blocks of a prompt that every stage of a pipeline holds."""
        count = len(blocks)
        for part in pipeline.parts:
            held = self._parts.get(part)
            if held is None or not count:
                return 0
            found = held.blocks
            count = next((i for i in range(count) if blocks[i] not in found), count)
        return count

    def use(self, pipeline: Pipeline, blocks: Sequence[bytes]) -> None:
        """Blocks that a request is sent to are of use: they go last."""
        for part in pipeline.parts:
            held = self._parts.get(part)
            if held is None:
                continue
            self._parts.move_to_end(part)
            for block in reversed(blocks):
                if block in held.blocks:
                    held.blocks.move_to_end(block)

    def keep(self, incarnations: Collection[str]) -> None:
        """Forgets the engine processes that are no more."""
        for part in [part for part in self._parts if part[0] not in incarnations]:
            self._forget(part)

    def replace(self, node_id: str, engines: Iterable[kv_pb2.KvChanges]) -> None:
        """All that a node holds, from its snapshot."""
        told = list(engines)
        parts = {(e.incarnation, e.layer_start, e.layer_stop) for e in told}
        for part, held in list(self._parts.items()):
            if held.node_id == node_id and part not in parts:
                self._forget(part)
        for changes in told:
            self.hear(changes)

    def _forget(self, part: Part) -> None:
        self.block_count -= len(self._parts.pop(part).blocks)

    def _trim(self) -> None:
        while self.block_count > self._blocks_max:
            part, held = next(iter(self._parts.items()))
            for _ in range(min(len(held.blocks), self.block_count - self._blocks_max)):
                held.blocks.popitem(last=False)
                self.block_count -= 1
            if self.block_count > self._blocks_max:
                # It stays known, with nothing held, so that its next message is no gap.
                self._parts.move_to_end(part)
