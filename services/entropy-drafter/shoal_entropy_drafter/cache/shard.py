"""A folder of points in this process, on qdrant-edge. Blocking; for one thread.

    <folder>.lock               held by the one process that owns the folder
    <folder>/collection.json    what the points are, and which generation is read
    <folder>/points-<number>/   a generation: one shard of qdrant-edge

Two habits of the library shape this file. It keeps the interpreter's lock as long as a call lasts,
so no call may be long: a search reads cells and not a whole scope, much is deleted and copied in
small batches, what is in memory is written down seldom (40 ms and more; until then the library's
log keeps it), and `EdgeShard.optimize` (minutes for 100,000 vectors) is never called. And room of
deleted points is only given back by that call: so after many deletions the points are copied to a
new generation, batch by batch, while the old one goes on serving. Letting go of the old one is the
one long call that is left, 0.2 to 0.4 s.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import qdrant_edge as qdrant

from shoal_entropy_drafter.cache import collection as layout
from shoal_entropy_drafter.cache.base import Match, Point, Vector
from shoal_entropy_drafter.cache.cells import BITS, Cells
from shoal_entropy_drafter.cache.collection import Collection
from shoal_entropy_drafter.errors import CacheStoreAway, CollectionInUse

log = logging.getLogger(__name__)
T = TypeVar("T")

# Raised when points are laid out in another way; folders of another form are made anew.
FORM = 1
CELL = "cell"
FREED_LEAST = 10_000
"""Deleted points below which no room is given back."""
_MANIFEST = "collection.json"
FLUSH_COUNT = 5_000
"""Writes after which the log is long enough: a second to read at the start after a crash."""
# 3 ms of the interpreter's lock each.
_COPY_COUNT = 32


class Shard:
    """Points of one collection, open from `open` to `close`. Calls raise CacheStoreAway."""

    def __init__(self, folder: Path, collection: Collection) -> None:
        self._folder = folder
        self._collection = collection
        self._cells = Cells(collection.dimensions)
        self._lock: TextIO | None = None
        self._shard: Any = None
        self._generation = 0
        self._freed_count = 0
        self._unflushed_count = 0
        self._next: Any = None
        self._next_offset: Any = None

    def open(self) -> None:
        """Own the folder and load it; one that cannot be read is moved aside and made anew.

        Raises CollectionInUse, DimensionsDiffer or EmbeddingModelDiffers, and owns nothing then.
        """
        if self._shard is not None:
            return
        try:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own()
            self._load_or_create()
        except OSError as err:
            self._disown()
            raise CacheStoreAway("qdrant", f"{self._folder}: {err.strerror}") from err
        except BaseException:
            self._disown()
            raise

    def upsert(self, points: Sequence[Point]) -> None:
        laid_out = [self._laid_out(point) for point in points]
        self._write(qdrant.UpdateOperation.upsert_points(laid_out), len(laid_out))

    def search(self, vector: Vector, scope: str, limit: int, similarity_min: float) -> list[Match]:
        request = qdrant.QueryRequest(
            limit=limit,
            query=qdrant.Query.Nearest(vector.tolist()),
            filter=qdrant.Filter(must=[self._where(vector, scope, similarity_min)]),
            with_payload=[layout.SCOPE],
            score_threshold=similarity_min if similarity_min > -1 else None,
        )
        found = _told(self._opened.query, request)
        # The filter has seen to it; a wrong answer is worth looking twice.
        return [Match(str(p.id), p.score) for p in found if p.payload[layout.SCOPE] == scope]

    def delete(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        self._write(qdrant.UpdateOperation.delete_points(list(ids)), len(ids))
        # At most: some may not have existed.
        self._freed_count += len(ids)

    def find(self, condition: qdrant.Filter, limit: int) -> list[str]:
        """Ids of points that fit."""
        request = qdrant.ScrollRequest(limit=limit, filter=condition, with_payload=False)
        found, _ = _told(self._opened.scroll, request)
        return [str(record.id) for record in found]

    def count(self) -> int:
        # To count exactly takes 30 ms at 60,000 points; this is as exact without a filter.
        return int(_told(self._opened.info).points_count)

    def count_where(self, condition: qdrant.Filter | None) -> int:
        """Points that fit."""
        if condition is None:
            return self.count()
        request = qdrant.CountRequest(exact=True, filter=condition)
        return int(_told(self._opened.count, request))

    def flush(self) -> None:
        """Write down what is only in memory and in the log, once that has grown long."""
        if self._unflushed_count >= FLUSH_COUNT:
            _told(self._opened.flush)
            self._unflushed_count = 0
            _told(self._write_manifest)

    def copy_some(self) -> bool:
        """One step of giving back the room of deleted points; False when none is left to take."""
        if self._next is None:
            if self._freed_count < max(FREED_LEAST, self.count()):
                return False
            self._next = self._create(self._generation + 1)
            self._next_offset, self._unflushed_count = None, 0
        request = qdrant.ScrollRequest(
            offset=self._next_offset, limit=_COPY_COUNT, with_payload=True, with_vector=True
        )
        records, offset = _told(self._opened.scroll, request)
        if records:
            copies = [qdrant.Point(r.id, r.vector, r.payload) for r in records]
            operation = qdrant.UpdateOperation.upsert_points(copies)
            _told(self._next.update, operation)
            self._unflushed_count += len(copies)
        if self._unflushed_count >= FLUSH_COUNT:
            # Rather often than long.
            _told(self._next.flush)
            self._unflushed_count = 0
        self._next_offset = offset
        if offset is None:
            self._switch()
        return offset is not None

    def close(self) -> None:
        """Write all down and let go of the folder. A second call does nothing."""
        if self._shard is None:
            return
        try:
            _told(self._write_manifest)
            self._abandon_copy()
            _told(self._shard.close)
        finally:
            self._shard = None
            self._disown()

    @property
    def _opened(self) -> Any:
        if self._shard is None:
            raise CacheStoreAway("qdrant", "the collection is closed")
        return self._shard

    def _own(self) -> None:
        lock = self._folder.with_name(f"{self._folder.name}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            lock.close()
            raise CollectionInUse(str(self._folder)) from err
        self._lock = lock

    def _disown(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _load_or_create(self) -> None:
        try:
            if self._load():
                return
        except (OSError, ValueError, KeyError, TypeError, CacheStoreAway) as err:
            self._move_aside(err)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._remove_generations(keep=None)
        self._generation, self._freed_count = 1, 0
        self._shard = self._create(1)
        self._write_manifest()

    def _load(self) -> bool:
        """False where there is nothing to load, or of another form."""
        path = self._folder / _MANIFEST
        if not path.exists():
            return False
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["form"] != FORM or found["cell_bits"] != BITS:
            log.info("vectors of another form are made anew", extra={"form": found["form"]})
            return False
        self._collection.check(int(found["dimensions"]), str(found[layout.EMBEDDING_MODEL]))
        self._generation = int(found["generation"])
        self._freed_count = int(found["freed_count"])
        self._remove_generations(keep=self._generation)
        where = str(self._path(self._generation))
        self._shard = _told(qdrant.EdgeShard.load, where)
        return True

    def _move_aside(self, problem: Exception) -> None:
        aside = self._folder.with_name(f"{self._folder.name}.broken")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(self._folder, aside)
        log.warning(
            "vectors cannot be read, moved aside and begun anew",
            extra={"folder": str(self._folder), "aside": str(aside), "problem": str(problem)},
        )

    def _create(self, generation: int) -> Any:
        path = self._path(generation)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        shard = _told(qdrant.EdgeShard.create, str(path), self._config())
        kinds: dict[str, Any] = {
            layout.SCOPE: qdrant.KeywordIndexParams(is_tenant=True),
            CELL: qdrant.PayloadSchemaType.Keyword,
            layout.EXPIRES_AT: qdrant.PayloadSchemaType.Integer,
        }
        kinds |= dict.fromkeys(layout.KEYWORDS, qdrant.PayloadSchemaType.Keyword)
        for name, kind in kinds.items():
            operation = qdrant.UpdateOperation.create_field_index(name, kind)
            _told(shard.update, operation)
        return shard

    def _config(self) -> Any:
        vectors = qdrant.EdgeVectorParams(
            size=self._collection.dimensions,
            distance=qdrant.Distance.Cosine,
            # Half the memory to read; cosines are off by less than 0.0001.
            datatype=qdrant.VectorStorageDatatype.Float16,
        )
        return qdrant.EdgeConfig(vectors=vectors, max_search_threads=1)

    def _write_manifest(self) -> None:
        told = {
            "form": FORM,
            "cell_bits": BITS,
            "dimensions": self._collection.dimensions,
            layout.EMBEDDING_MODEL: self._collection.embedding_model,
            "generation": self._generation,
            "freed_count": self._freed_count,
        }
        path = self._folder / _MANIFEST
        new = path.with_suffix(".new")
        new.write_text(json.dumps(told), encoding="utf-8")
        os.replace(new, path)

    def _write(self, operation: Any, count: int) -> None:
        _told(self._opened.update, operation)
        self._unflushed_count += count
        if self._next is not None:
            _told(self._next.update, operation)

    def _laid_out(self, point: Point) -> Any:
        payload = {
            layout.SCOPE: point.scope,
            CELL: _cell_key(point.scope, self._cells.cell(point.vector)),
            layout.TENANT: point.tenant,
            layout.MODEL: point.model,
            layout.EXPIRES_AT: point.expires_at,
        }
        return qdrant.Point(point.id, point.vector.tolist(), payload)

    def _where(self, vector: Vector, scope: str, similarity_min: float) -> Any:
        cells = self._cells.probable(vector, similarity_min)
        if cells is None:
            return qdrant.FieldCondition(layout.SCOPE, match=qdrant.MatchValue(scope))
        # One key for scope and cell: two conditions would be checked point by point.
        keys = [_cell_key(scope, cell) for cell in cells]
        return qdrant.FieldCondition(CELL, match=qdrant.MatchAny(keys))

    def _switch(self) -> None:
        """Read the new generation from now on."""
        old, self._shard, self._next = self._shard, self._next, None
        self._generation += 1
        self._freed_count = 0
        _told(self._write_manifest)
        _told(old.close)
        self._remove_generations(keep=self._generation)
        log.info("room of deleted vectors given back", extra={"generation": self._generation})

    def _abandon_copy(self) -> None:
        if self._next is not None:
            unfinished, self._next = self._next, None
            _told(unfinished.close)
            shutil.rmtree(self._path(self._generation + 1), ignore_errors=True)

    def _remove_generations(self, keep: int | None) -> None:
        for path in self._folder.glob("points-*"):
            if keep is None or path != self._path(keep):
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, generation: int) -> Path:
        return self._folder / f"points-{generation}"


def condition_of(
    tenant: str = "", model: str = "", expired_at: int | None = None
) -> qdrant.Filter | None:
    """Points that fit everything given; None for all points."""
    must: list[Any] = [
        qdrant.FieldCondition(name, match=qdrant.MatchValue(value))
        for name, value in ((layout.TENANT, tenant), (layout.MODEL, model))
        if value
    ]
    if expired_at is not None:
        expired = qdrant.RangeFloat(lte=expired_at)
        must.append(qdrant.FieldCondition(layout.EXPIRES_AT, range=expired))
    return qdrant.Filter(must=must) if must else None


def _cell_key(scope: str, cell: int) -> str:
    return f"{scope}/{cell:x}"


def _told(call: Callable[..., T], *arguments: Any) -> T:
    """What a call of the library gives; whatever it raises becomes CacheStoreAway."""
    try:
        return call(*arguments)
    except Exception as err:  # The library raises nothing but plain Exception; disks, OSError.
        raise CacheStoreAway("qdrant", str(err)) from err
    except BaseException as err:
        # A panic in Rust is not an Exception, but no reason to end the service.
        if type(err).__name__ != "PanicException":
            raise
        raise CacheStoreAway("qdrant", f"panic: {err}") from err
