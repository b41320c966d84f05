"""What an engine tells of the prefixes it holds, and what its agent keeps of that.

The router needs to know where a prompt would be cheap. It may lose messages, so they are counted,
and everything can be asked for at once. Parts of an engine's layers are told of by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shoal.worker.v1 import kv_pb2
from shoal_engine.blocks import BlockPool
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.range_keys import RangeKeys


class KvJournal:
    """Changes of one engine's pool, for one reader that says what it has seen.

    sequence: counts answers that told something.
    """

    def __init__(self, pool: BlockPool, layers: LayerRange) -> None:
        """layers: all of the engine's."""
        self.sequence = 0
        self._pool = pool
        self._keys = RangeKeys(layers)
        # How many messages were made for each range that something was ever told of.
        self._counts: dict[LayerRange, int] = {layers: 0}

    def since(self, sequence_seen: int) -> list[kv_pb2.KvChanges]:
        """What has changed since, by layers; everything when the reader has missed something.

        Empty when nothing has changed.
        """
        changes = self._pool.take_changes()
        is_snapshot = sequence_seen == 0 or sequence_seen != self.sequence
        if not changes and not is_snapshot:
            return []
        self.sequence += 1
        if is_snapshot:
            told = self._sorted((key, True) for key in self._pool.remembered())
            for layers in self._counts:
                told.setdefault(layers, kv_pb2.KvChanges())
        else:
            told = self._sorted(changes.items())
        return [self._counted(layers, message, is_snapshot) for layers, message in told.items()]

    def _sorted(self, keys: Iterable[tuple[bytes, bool]]) -> dict[LayerRange, kv_pb2.KvChanges]:
        """Keys of the pool, and whether they are stored or forgotten, by the layers they are of."""
        told: dict[LayerRange, kv_pb2.KvChanges] = {}
        for pool_key, is_stored in keys:
            layers, key = self._keys.read(pool_key)
            message = told.setdefault(layers, kv_pb2.KvChanges())
            (message.stored if is_stored else message.forgotten).append(key)
        return told

    def _counted(
        self, layers: LayerRange, message: kv_pb2.KvChanges, is_snapshot: bool
    ) -> kv_pb2.KvChanges:
        self._counts[layers] = self._counts.get(layers, 0) + 1
        message.sequence = self._counts[layers]
        message.layer_start, message.layer_stop = layers.start, layers.stop
        message.is_snapshot = is_snapshot
        return message


_Part = tuple[str, int, int]


class KvMirror:
    """What the engines of one worker hold, as their journals told; any thread may read it.

    publish: gets every message as it is to be sent on.
    """

    def __init__(self, node_id: str, publish: Callable[[bytes], None]) -> None:
        self._node_id = node_id
        self._publish = publish
        self._latest: dict[_Part, kv_pb2.KvChanges] = {}
        self._held: dict[_Part, set[bytes]] = {}

    def hear(self, changes: kv_pb2.KvChanges) -> None:
        """An engine has told something; `incarnation`, model and layers are filled in."""
        part = (changes.incarnation, changes.layer_start, changes.layer_stop)
        held = self._held.get(part, set())
        held = set(changes.stored) if changes.is_snapshot else held | set(changes.stored)
        self._held[part] = held - set(changes.forgotten)
        changes.node_id = self._node_id
        self._latest[part] = changes
        self._publish(changes.SerializeToString())

    def forget(self, incarnation: str) -> None:
        """The engine process is gone."""
        for part in [part for part in list(self._latest) if part[0] == incarnation]:
            self._latest.pop(part, None)
            self._held.pop(part, None)

    def snapshot(self) -> kv_pb2.KvSnapshot:
        """Everything that all engines hold."""
        snapshot = kv_pb2.KvSnapshot()
        for part, latest in list(self._latest.items()):
            whole = snapshot.engines.add()
            whole.CopyFrom(latest)
            whole.is_snapshot = True
            del whole.stored[:]
            del whole.forgotten[:]
            whole.stored.extend(sorted(self._held.get(part, ())))
        return snapshot
