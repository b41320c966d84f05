"""What an engine tells of the prefixes it holds, and what its agent keeps of that.

The router needs to know where a prompt would be cheap. It may lose messages, so they are counted,
and everything can be asked for at once.
"""

from __future__ import annotations

from collections.abc import Callable

from shoal.worker.v1 import kv_pb2
from shoal_engine.blocks import BlockPool


class KvJournal:
    """Changes of one engine's pool, for one reader that says what it has seen."""

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._sequence = 0

    def since(self, sequence_seen: int) -> kv_pb2.KvChanges | None:
        """What has changed since; everything when the reader has missed something.

        None when nothing has changed.
        """
        changes = self._pool.take_changes()
        is_snapshot = sequence_seen == 0 or sequence_seen != self._sequence
        if not changes and not is_snapshot:
            return None
        self._sequence += 1
        if is_snapshot:
            stored, forgotten = self._pool.remembered(), []
        else:
            stored = [key for key, is_stored in changes.items() if is_stored]
            forgotten = [key for key, is_stored in changes.items() if not is_stored]
        return kv_pb2.KvChanges(
            sequence=self._sequence, is_snapshot=is_snapshot, stored=stored, forgotten=forgotten
        )


class KvMirror:
    """What the engines of one worker hold, as their journals told; any thread may read it.

    publish: gets every message as it is to be sent on.
    """

    def __init__(self, node_id: str, publish: Callable[[bytes], None]) -> None:
        self._node_id = node_id
        self._publish = publish
        self._latest: dict[str, kv_pb2.KvChanges] = {}
        self._held: dict[str, set[bytes]] = {}

    def hear(self, changes: kv_pb2.KvChanges) -> None:
        """An engine has told something; `incarnation` and model are filled in."""
        held = self._held.get(changes.incarnation, set())
        held = set(changes.stored) if changes.is_snapshot else held | set(changes.stored)
        self._held[changes.incarnation] = held - set(changes.forgotten)
        changes.node_id = self._node_id
        self._latest[changes.incarnation] = changes
        self._publish(changes.SerializeToString())

    def forget(self, incarnation: str) -> None:
        """The engine process is gone."""
        self._held.pop(incarnation, None)
        self._latest.pop(incarnation, None)

    def snapshot(self) -> kv_pb2.KvSnapshot:
        """Everything that all engines hold."""
        snapshot = kv_pb2.KvSnapshot()
        for incarnation, latest in list(self._latest.items()):
            whole = snapshot.engines.add()
            whole.CopyFrom(latest)
            whole.is_snapshot = True
            del whole.stored[:]
            del whole.forgotten[:]
            whole.stored.extend(sorted(self._held[incarnation]))
        return snapshot
