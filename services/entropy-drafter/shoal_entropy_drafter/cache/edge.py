"""The index of vectors in this process: a folder with one owner, for one drafter.

Calls run in order on a thread of their own. The library keeps the interpreter's lock meanwhile, so
that the thread spares the event loop only what waits for the disk; that calls stay short is the
business of `shard`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from shoal_common.clock import Clock
from shoal_entropy_drafter.cache.base import Match, Point, Vector
from shoal_entropy_drafter.cache.collection import Collection
from shoal_entropy_drafter.cache.shard import Shard, condition_of
from shoal_entropy_drafter.errors import CacheStoreAway

T = TypeVar("T")

DELETE_COUNT = 64
"""Points deleted at a time, so that others come in between."""
_COPY_PAUSE_S = 0.02


class EdgeIndex:
    """A VectorIndex in `folder`. Not to be used again after `close`."""

    def __init__(self, folder: Path, collection: Collection, clock: Clock) -> None:
        self._shard = Shard(folder, collection)
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache-vectors")
        self._is_started = False
        self._is_closed = False

    @property
    def is_started(self) -> bool:
        return self._is_started

    async def start(self) -> None:
        if not self._is_started:
            await self._run(self._shard.open)
            self._is_started = True

    async def upsert(self, point: Point) -> None:
        await self._run(lambda: self._shard.upsert([point]))

    async def search(
        self, vector: Vector, scope: str, limit: int, similarity_min: float = -1.0
    ) -> list[Match]:
        return await self._run(lambda: self._shard.search(vector, scope, limit, similarity_min))

    async def delete(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), DELETE_COUNT):
            some = ids[start : start + DELETE_COUNT]
            await self._run(partial(self._shard.delete, some))

    async def delete_where(
        self, *, tenant: str = "", model: str = "", expired_at: int | None = None
    ) -> int:
        condition = condition_of(tenant, model, expired_at)
        total = await self._run(lambda: self._shard.count_where(condition))
        deleted = 0
        # No more than there were: what is added meanwhile is not meant.
        while deleted < total:
            count = await self._run(lambda: self._delete_some(condition))
            if not count:
                break
            deleted += count
        return deleted

    async def count(self) -> int:
        return await self._run(self._shard.count)

    async def tidy(self) -> None:
        await self._run(self._shard.flush)
        while await self._run(self._shard.copy_some):
            await self._clock.sleep(_COPY_PAUSE_S)

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed, self._is_started = True, False
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._shard.close)
        self._thread.shutdown(wait=False)
        await asyncio.shield(closing)

    def _delete_some(self, condition: Any) -> int:
        ids = self._shard.find(condition, DELETE_COUNT)
        self._shard.delete(ids)
        return len(ids)

    async def _run(self, call: Callable[[], T]) -> T:
        """A call on the thread; cancelled, it still ends, and its outcome is dropped."""
        if self._is_closed:
            raise CacheStoreAway("qdrant", "the collection is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
