"""Import of a local folder: check, plan, copy, record.

Owns the order of those steps, progress and cancellation. The copy runs in a thread with one 1 MiB
buffer, one import at a time: two would only fight for the disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from shoal_common.errors import Cancelled
from shoal_shard_store.blob_store import CHUNK_SIZE_BYTES, BlobStore, BlobWriter
from shoal_shard_store.catalog import Catalog, SourceRecord, StoredManifest, check_model_name
from shoal_shard_store.errors import (
    SourceChanged,
    TooManyImports,
    UnknownBlob,
)
from shoal_shard_store.manifest import (
    BlobRef,
    SegmentPlan,
    ShardPlan,
    blobs_of,
    facts_of,
    manifest_bytes,
    plan_shards,
)
from shoal_shard_store.model_folder import ModelFolder, read_folder, scan_stamps

log = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 0.4
IMPORTS_MAX = 8


@dataclass(frozen=True)
class ImportProgress:
    """How far an import is; `revision` is set when it is complete."""

    model: str
    bytes_done: int = 0
    bytes_total: int = 0
    revision: str = ""

    @property
    def is_complete(self) -> bool:
        return bool(self.revision)


class ImportJob:
    """One import, blocking; `progress` may be read and `cancel` called from another thread."""

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        folder: Path,
        model: str,
        shard_size_bytes: int,
        require_room: Callable[[int], None] = lambda size_bytes: None,
    ) -> None:
        """require_room: raises QuotaExceeded or StorageFull unless that many bytes fit."""
        check_model_name(model)
        self._require_room = require_room
        self._blobs = blobs
        self._catalog = catalog
        self._folder = folder
        self._model = model
        self._shard_size_bytes = shard_size_bytes
        self._cancelled = threading.Event()
        self.is_started = False
        self._bytes_done = 0
        self._bytes_total = 0

    @property
    def progress(self) -> ImportProgress:
        return ImportProgress(self._model, self._bytes_done, self._bytes_total)

    def cancel(self) -> None:
        """Make `run` end within one chunk, with everything unfinished deleted."""
        self._cancelled.set()

    def run(self) -> ImportProgress:
        """Import the folder unless it is stored already as it is.

        Raises UntrustedFolder, SourceChanged, StorageFull, QuotaExceeded or Cancelled; the model's
        newest manifest is then what it was before.
        """
        unchanged = self._unchanged()
        if unchanged is not None:
            total = sum(blobs_of(unchanged.document()).values())
            return ImportProgress(self._model, total, total, unchanged.revision)
        source = read_folder(self._folder)
        facts = facts_of(source.config, [tensor.name for tensor in source.tensors])
        plan = plan_shards(source.tensors, facts.layer_count, self._shard_size_bytes)
        self._bytes_total = plan.size_bytes + sum(
            source.stamps[name].size_bytes for name in source.side_files
        )
        self._require_room(self._bytes_total)
        files = {name: self._copy_file(source, name) for name in source.side_files}
        digests: dict[SegmentPlan, str] = {}
        shards = [self._write_shard(source, plan, i, digests) for i in range(plan.shard_count)]
        if scan_stamps(self._folder) != source.stamps:
            raise SourceChanged(self._folder.name)
        raw = manifest_bytes(self._model, facts, files, shards, plan, digests)
        record = SourceRecord(str(self._folder), self._shard_size_bytes, source.stamps)
        stored = self._catalog.put(self._model, raw, record)
        log.info(
            "model imported",
            extra={
                "model": self._model,
                "revision": stored.revision,
                "shard_count": plan.shard_count,
                "size_bytes": self._bytes_total,
            },
        )
        return ImportProgress(self._model, self._bytes_done, self._bytes_total, stored.revision)

    def _unchanged(self) -> StoredManifest | None:
        """The stored manifest, if the folder is as it was and every blob is still there."""
        record = SourceRecord(str(self._folder), self._shard_size_bytes, scan_stamps(self._folder))
        if self._catalog.source(self._model) != record:
            return None
        stored = self._catalog.get(self._model)
        try:
            refs = [BlobRef(*item) for item in blobs_of(stored.document()).items()]
            return stored if all(self._blobs.has(ref) for ref in refs) else None
        except (ValueError, KeyError, TypeError, UnknownBlob):
            log.warning("damaged manifest is made anew", extra={"model": self._model})
            return None

    def _copy_file(self, source: ModelFolder, file_name: str) -> BlobRef:
        with self._blobs.writer() as writer:
            with source.opened(file_name) as descriptor:
                size_bytes = source.stamps[file_name].size_bytes
                for chunk in self._chunks(descriptor, file_name, 0, size_bytes):
                    writer.write(chunk)
            return self._blobs.keep(writer)

    def _write_shard(
        self, source: ModelFolder, plan: ShardPlan, shard: int, digests: dict[SegmentPlan, str]
    ) -> BlobRef:
        with self._blobs.writer() as writer:
            for segment in plan.segments_of(shard):
                assert writer.size_bytes == segment.offset_bytes
                digests[segment] = self._write_segment(source, segment, writer)
            return self._blobs.keep(writer)

    def _write_segment(self, source: ModelFolder, segment: SegmentPlan, writer: BlobWriter) -> str:
        hasher = blake3()
        for tensor in segment.tensors:
            with source.opened(tensor.file_name) as descriptor:
                for chunk in self._chunks(
                    descriptor, tensor.file_name, tensor.offset_bytes, tensor.size_bytes
                ):
                    hasher.update(chunk)
                    writer.write(chunk)
        return hasher.hexdigest()

    def _chunks(
        self, descriptor: int, file_name: str, offset_bytes: int, size_bytes: int
    ) -> Iterator[bytes]:
        stop = offset_bytes + size_bytes
        while offset_bytes < stop:
            if self._cancelled.is_set():
                raise Cancelled(f"import of {self._model} was cancelled")
            chunk = os.pread(descriptor, min(CHUNK_SIZE_BYTES, stop - offset_bytes), offset_bytes)
            if not chunk:
                raise SourceChanged(file_name)
            yield chunk
            offset_bytes += len(chunk)
            self._bytes_done += len(chunk)


class Importer:
    """Runs import jobs one after another, off the event loop."""

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        shard_size_bytes: int,
        require_room: Callable[[int], None] = lambda size_bytes: None,
    ) -> None:
        self._require_room = require_room
        self._blobs = blobs
        self._catalog = catalog
        self._shard_size_bytes = shard_size_bytes
        self._turn = asyncio.Lock()
        self._count = 0

    async def run(self, folder: Path, model: str) -> AsyncGenerator[ImportProgress, None]:
        """Import `folder` as `model` (its own name when empty); the last item is complete.

        Says something every 0.4 s, also while it waits for its turn. Closing the iterator cancels
        the import and returns when its thread has ended.
        """
        name = model or folder.name
        job = ImportJob(
            self._blobs, self._catalog, folder, name, self._shard_size_bytes, self._require_room
        )
        with self._place():
            task = asyncio.create_task(self._in_turn(job))
            try:
                while not task.done():
                    yield job.progress
                    await asyncio.wait({task}, timeout=PROGRESS_INTERVAL_S)
                yield task.result()
            finally:
                job.cancel()
                if not job.is_started:
                    task.cancel()
                if not task.done():
                    await asyncio.wait({task})
                # Nobody waits for the outcome of a job that was left; it must still be fetched.
                task.cancelled() or task.exception()

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._count >= IMPORTS_MAX:
            raise TooManyImports(IMPORTS_MAX)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    async def _in_turn(self, job: ImportJob) -> ImportProgress:
        async with self._turn:
            job.is_started = True
            return await asyncio.to_thread(job.run)
