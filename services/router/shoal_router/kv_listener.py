"""Owns: how the prefix index learns what engines hold: their messages, and snapshots on request.

A snapshot is asked for when an engine process is new to this router and when messages were missed;
of one node one at a time, and not again at once. Does not know: what prefixes are good for.
"""

from __future__ import annotations

import asyncio
import logging

from google.protobuf.message import DecodeError

from shoal.worker.v1 import kv_pb2, pipeline_pb2
from shoal_common.bus import Bus
from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_router.prefix_index import PrefixIndex

log = logging.getLogger(__name__)

SUBJECT = "shoal.worker.*.kv"
SNAPSHOT_TIMEOUT_S = 2.0
# Between two snapshots of one node: while its messages are lost, asking more often helps nobody.
SNAPSHOT_EVERY_S = 5.0
BYTES_MAX = 8 << 20
KEY_BYTES_MAX = 64
ASKED_MAX = 65536


class KvListener:
    """Feeds the index from the bus. A node that does not answer is asked again with its next
    message or new engine; without answers the index only knows less."""

    def __init__(self, bus: Bus, index: PrefixIndex, clock: Clock) -> None:
        self._bus = bus
        self._index = index
        self._clock = clock
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._asked_at_s: dict[str, float] = {}
        self._met: set[str] = set()
        """Engine processes that were asked about, or have spoken."""

    async def on_kv(self, subject: str, payload: bytes) -> None:
        """A message of an engine; what is none is dropped."""
        changes = _parsed(subject, payload)
        if changes is None:
            log.warning(
                "kv message malformed", extra={"diag": "prefix", "size_bytes": len(payload)}
            )
            return
        if log.isEnabledFor(logging.DEBUG):
            blocks = {"stored": len(changes.stored), "forgotten": len(changes.forgotten)}
            log.debug(
                "prefixes heard", extra={"diag": "prefix", "node_id": changes.node_id, **blocks}
            )
        if not self._index.hear(changes):
            self._ask(changes.node_id)

    def on_beat(self, beat: pipeline_pb2.WorkerBeat) -> None:
        """Engines this router has not met may hold much already."""
        ready = {
            engine.incarnation
            for engine in beat.engines
            if engine.state == pipeline_pb2.ENGINE_STATE_READY and engine.kv_format
        }
        if not ready <= self._met and self._ask(beat.node_id):
            self._met |= ready

    def keep(self, incarnations: set[str]) -> None:
        """Of engine processes that are no more, nothing is kept."""
        self._met &= incarnations
        self._index.keep(incarnations)

    async def close(self) -> None:
        for call in self._calls.values():
            call.cancel()
        await asyncio.gather(*self._calls.values(), return_exceptions=True)

    def _ask(self, node_id: str) -> bool:
        now_s = self._clock.monotonic()
        last_s = self._asked_at_s.get(node_id)
        if node_id in self._calls or (last_s is not None and now_s - last_s < SNAPSHOT_EVERY_S):
            return False
        if len(self._asked_at_s) >= ASKED_MAX:
            self._asked_at_s.clear()
        self._asked_at_s[node_id] = now_s
        call = asyncio.create_task(self._take_snapshot(node_id))
        self._calls[node_id] = call
        call.add_done_callback(lambda _: self._calls.pop(node_id, None))
        return True

    async def _take_snapshot(self, node_id: str) -> None:
        subject = f"shoal.worker.{node_id}.kv.snapshot"
        try:
            payload = await self._bus.request(subject, b"", SNAPSHOT_TIMEOUT_S)
            snapshot = kv_pb2.KvSnapshot.FromString(payload)
        except (ShoalError, DecodeError, OSError) as err:
            fields = {"diag": "prefix", "node_id": node_id, "error": type(err).__name__}
            log.info("no kv snapshot", extra=fields)
            return
        engines = [e for e in snapshot.engines if e.node_id == node_id and _is_sane(e)]
        self._index.replace(node_id, engines)


def _parsed(subject: str, payload: bytes) -> kv_pb2.KvChanges | None:
    if len(payload) > BYTES_MAX:
        return None
    try:
        changes = kv_pb2.KvChanges.FromString(payload)
    except DecodeError:
        return None
    is_own = subject == SUBJECT.replace("*", changes.node_id)
    return changes if is_own and _is_sane(changes) else None


def _is_sane(changes: kv_pb2.KvChanges) -> bool:
    return (
        bool(changes.incarnation)
        and changes.layer_start < changes.layer_stop
        and all(len(key) <= KEY_BYTES_MAX for key in (*changes.stored, *changes.forgotten))
    )
