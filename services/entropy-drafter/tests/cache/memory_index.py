"""A VectorIndex in memory, which can be away or hang; it passes the suite of the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from shoal_entropy_drafter.cache.base import Match, Point, Vector
from shoal_entropy_drafter.cache.collection import Collection
from shoal_entropy_drafter.errors import CacheStoreAway


class Shelf:
    """Collections that outlive their indexes."""

    def __init__(self) -> None:
        self.collections: dict[str, tuple[Collection, dict[str, Point]]] = {}


class MemoryIndex:
    """is_away: every call fails. may_answer: cleared, calls hang. calls: their names, in order."""

    def __init__(self, shelf: Shelf, wanted: Collection) -> None:
        self._shelf = shelf
        self._wanted = wanted
        self._is_started = False
        self.is_away = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.calls: list[str] = []

    @property
    def is_started(self) -> bool:
        return self._is_started

    @property
    def points(self) -> dict[str, Point]:
        return self._shelf.collections[self._wanted.name][1]

    async def start(self) -> None:
        if self._is_started:
            return
        await self._answer("start")
        held, _ = self._shelf.collections.setdefault(self._wanted.name, (self._wanted, {}))
        self._wanted.check(held.dimensions, held.embedding_model)
        self._is_started = True

    async def upsert(self, point: Point) -> None:
        await self._answer("upsert")
        self.points[point.id] = point

    async def search(
        self, vector: Vector, scope: str, limit: int, similarity_min: float = -1.0
    ) -> list[Match]:
        await self._answer("search")
        found = [
            Match(one.id, _cosine(vector, one.vector))
            for one in self.points.values()
            if one.scope == scope
        ]
        found = [match for match in found if match.similarity >= similarity_min]
        return sorted(found, key=lambda match: -match.similarity)[:limit]

    async def delete(self, ids: Sequence[str]) -> None:
        await self._answer("delete")
        for one in ids:
            self.points.pop(one, None)

    async def delete_where(
        self, *, tenant: str = "", model: str = "", expired_at: int | None = None
    ) -> int:
        await self._answer("delete_where")
        gone = [
            one.id
            for one in self.points.values()
            if tenant in ("", one.tenant)
            and model in ("", one.model)
            and (expired_at is None or one.expires_at <= expired_at)
        ]
        for one in gone:
            del self.points[one]
        return len(gone)

    async def count(self) -> int:
        await self._answer("count")
        return len(self.points)

    async def tidy(self) -> None:
        await self._answer("tidy")

    async def close(self) -> None:
        self._is_started = False

    async def _answer(self, name: str) -> None:
        self.calls.append(name)
        if name != "start" and not self._is_started:
            raise CacheStoreAway("qdrant", "the collection is closed")
        await self.may_answer.wait()
        if self.is_away:
            raise CacheStoreAway("qdrant", "away")


def _cosine(one: Vector, other: Vector) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
