"""Tells the fleet which models can be loaded from here: every few seconds, and at once on change.

Owns the connection to the bus. Only models of which every blob is there are announced. Without the
bus it tries again for ever, and nothing else of the service notices.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from blake3 import blake3
from prometheus_client import Counter

from shoal.shard_store.v1 import announcement_pb2
from shoal_common.bus import Bus
from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.catalog import Catalog, StoredManifest
from shoal_shard_store.manifest import BlobRef, blobs_of

log = logging.getLogger(__name__)

_SUBJECT_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_RETRY_S = 1.0


def subject_of(model: str) -> str:
    """Where a model is announced: by its name, or by a digest where NATS could not carry it."""
    is_safe = _SUBJECT_SAFE.issuperset(model)
    return f"shoal.model.{model if is_safe else blake3(model.encode()).hexdigest(8)}.announce"


def announcement_of(stored: StoredManifest, store_id: str) -> announcement_pb2.ModelAnnouncement:
    """What the fleet must know of a model to choose a machine for it."""
    document = stored.document()
    segments = [segment for group in document["groups"] for segment in group["segments"]]
    tensors = [tensor for segment in segments for tensor in segment["tensors"]]
    return announcement_pb2.ModelAnnouncement(
        store_id=store_id,
        model=stored.model,
        revision=stored.revision,
        layer_count=document["layer_count"],
        context_length=document["context_length"],
        weight_bytes=sum(segment["size_bytes"] for segment in segments),
        parameter_count=sum(math.prod(tensor["shape"]) for tensor in tensors),
    )


class Shelf:
    """What may be announced now. Blocking: call it from a thread, one call at a time.

    Facts of a revision never change, so its manifest is read once.
    """

    def __init__(self, blobs: BlobStore, catalog: Catalog, store_id: str) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._store_id = store_id
        self._known: dict[str, tuple[announcement_pb2.ModelAnnouncement, dict[str, int]]] = {}

    def announcements(self) -> list[announcement_pb2.ModelAnnouncement]:
        """The newest revision of every model that is complete."""
        known, self._known = self._known, {}
        found = []
        for model in self._catalog.models():
            stored = self._catalog.get(model)
            facts = known.get(stored.revision) or self._read(stored)
            self._known[stored.revision] = facts
            announcement, sizes = facts
            if all(self._blobs.has(BlobRef(*item)) for item in sizes.items()):
                found.append(announcement)
        return found

    def _read(
        self, stored: StoredManifest
    ) -> tuple[announcement_pb2.ModelAnnouncement, dict[str, int]]:
        return announcement_of(stored, self._store_id), blobs_of(stored.document())


class Announcer:
    """Publishes what the shelf holds until it is cancelled."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Bus]],
        shelf: Shelf,
        clock: Clock,
        interval_s: float,
        count: Counter,
    ) -> None:
        self._connect = connect
        self._shelf = shelf
        self._clock = clock
        self._interval_s = interval_s
        self._count = count
        self._changed = asyncio.Event()

    def announce_now(self) -> None:
        """A model came or changed: nobody should learn it seconds later."""
        self._changed.set()

    async def run(self) -> None:
        """Announce until cancelled."""
        bus = await self._connected()
        try:
            while True:
                self._changed.clear()
                await self._announce(bus)
                await self._pause(self._interval_s)
        finally:
            await bus.close()

    async def _connected(self) -> Bus:
        failed_count = 0
        while True:
            try:
                return await self._connect()
            except ShoalError as err:
                failed_count += 1
                if failed_count == 1:  # It may stay away for hours.
                    log.warning("bus unreachable", extra={"detail": str(err)})
            await self._clock.sleep(_RETRY_S)

    async def _announce(self, bus: Bus) -> None:
        try:
            for announcement in await asyncio.to_thread(self._shelf.announcements):
                payload = announcement.SerializeToString()
                await bus.publish(subject_of(announcement.model), payload)
                self._count.labels("sent").inc()
        except (ShoalError, OSError, ValueError, KeyError, TypeError) as err:
            # A broken manifest or a bus that is away must not end what comes after.
            self._count.labels("failed").inc()
            log.warning("announcing failed", extra={"error": type(err).__name__})

    async def _pause(self, delay_s: float) -> None:
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._clock.sleep(delay_s)),
            asyncio.create_task(self._changed.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
