"""Room on the disk: the owner's limit, what is promised to downloads, what pruning gives back.

Owns the sum of promises, so that two downloads never count on the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from shoal_shard_store.blob_store import BlobStore, folder_bytes, free_bytes
from shoal_shard_store.errors import QuotaExceeded, StorageFull

log = logging.getLogger(__name__)

MakeRoom = Callable[[int], Awaitable[None]]
"""Tries to free that many bytes."""


class Room:
    """What may still be written. A limit of 0 leaves it to the disk."""

    def __init__(self, blobs: BlobStore, downloads: Path, limit_bytes: int) -> None:
        self._blobs = blobs
        self._downloads = downloads
        self._limit_bytes = limit_bytes
        self._promised: dict[object, Callable[[], int]] = {}
        self._turn = asyncio.Lock()

    def used_bytes(self) -> int:
        """Bytes of blobs and of unfinished downloads. Blocking."""
        return self._blobs.used_bytes() + folder_bytes(self._downloads)

    @asynccontextmanager
    async def reserved(
        self, needed_bytes: int, outstanding: Callable[[], int], make_room: MakeRoom
    ) -> AsyncIterator[None]:
        """Promise that much to a download while the block runs; others count on the rest.

        outstanding: what of it is yet to be written. Raises QuotaExceeded or StorageFull when it
        does not fit, even after pruning.
        """
        key = object()
        async with self._turn:
            if needed_bytes:
                short_bytes = await asyncio.to_thread(self._short_bytes, needed_bytes)
                if short_bytes > 0:
                    await make_room(short_bytes)
                await asyncio.to_thread(self.require, needed_bytes)
            self._promised[key] = outstanding
        try:
            yield
        finally:
            del self._promised[key]

    def require(self, needed_bytes: int) -> None:
        """Raise QuotaExceeded or StorageFull unless that much fits now. Blocking; never prunes."""
        used_bytes = self.used_bytes() + self._promised_bytes()
        if self._limit_bytes and used_bytes + needed_bytes > self._limit_bytes:
            raise QuotaExceeded(needed_bytes, used_bytes, self._limit_bytes)
        left_bytes = free_bytes(self._blobs.folder) - self._promised_bytes()
        if needed_bytes > left_bytes:
            raise StorageFull(needed_bytes, max(0, left_bytes))

    def _promised_bytes(self) -> int:
        return sum(max(0, outstanding()) for outstanding in list(self._promised.values()))

    def _short_bytes(self, needed_bytes: int) -> int:
        promised = self._promised_bytes()
        short = needed_bytes + promised - free_bytes(self._blobs.folder)
        if self._limit_bytes:
            over = self.used_bytes() + promised + needed_bytes - self._limit_bytes
            short = max(short, over)
        return short
