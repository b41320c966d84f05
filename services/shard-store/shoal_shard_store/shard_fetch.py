"""One shard from whoever has it: resumed, retried, verified.

Owns the choice of the next source, the waits between attempts, and what happens to bytes that are
wrong. Does not know why the shard is wanted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from blake3 import blake3

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_shard_store.blob_store import CHUNK_SIZE_BYTES, BlobStore
from shoal_shard_store.errors import (
    CorruptBlob,
    NoSource,
    QuotaExceeded,
    RemoteChanged,
    SourceBusy,
    SourceLies,
    StorageFull,
    UnknownBlob,
    UntrustedFolder,
)
from shoal_shard_store.manifest import BlobRef, SegmentPlan
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.partial import PartialShard
from shoal_shard_store.progress import ShardProgress
from shoal_shard_store.sources.base import FileSource, RemoteFile
from shoal_shard_store.sources.peer import Offer
from shoal_shard_store.standing import Standings

log = logging.getLogger(__name__)

R = TypeVar("R")
_BACKOFF_S = 0.5
_OURS = (StorageFull, QuotaExceeded, RemoteChanged, UntrustedFolder)
"""Another source would not help."""


@dataclass(frozen=True)
class Piece:
    """A range of a remote file."""

    file: RemoteFile
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class WantedShard:
    """A blob to be. `digest` is empty while nobody knows it; `pieces` make it from files."""

    model: str
    group: str
    size_bytes: int
    digest: str = ""
    pieces: tuple[Piece, ...] = ()

    @property
    def key(self) -> str:
        """Names what it is made of; equal keys mean equal bytes."""
        if not self.pieces:
            return self.digest
        parts = [
            f"{piece.file.name}\0{piece.file.etag}\0{piece.file.size_bytes}\0"
            f"{piece.offset_bytes}\0{piece.size_bytes}"
            for piece in self.pieces
        ]
        return blake3("\n".join(parts).encode()).hexdigest()


def pieces_of(segment: SegmentPlan, files: Mapping[str, RemoteFile]) -> tuple[Piece, ...]:
    """The file ranges of a shard in order; neighbours in a file are one range."""
    found: list[Piece] = []
    for tensor in segment.tensors:
        if not tensor.size_bytes:
            continue
        last = found[-1] if found else None
        if (
            last is not None
            and last.file.name == tensor.file_name
            and last.offset_bytes + last.size_bytes == tensor.offset_bytes
        ):
            found[-1] = Piece(last.file, last.offset_bytes, last.size_bytes + tensor.size_bytes)
        else:
            found.append(Piece(files[tensor.file_name], tensor.offset_bytes, tensor.size_bytes))
    return tuple(found)


class ShardSource(Protocol):
    """Somebody who may have shards."""

    @property
    def name(self) -> str: ...

    def holds(self, shard: WantedShard) -> bool: ...

    def read(self, shard: WantedShard, offset_bytes: int) -> AsyncGenerator[bytes, None]:
        """The shard's bytes from `offset_bytes` to its end."""
        ...


class FileShards:
    """Shards made from the ranges of a repository's files."""

    def __init__(self, source: FileSource) -> None:
        self.name = source.name
        self._source = source

    def holds(self, shard: WantedShard) -> bool:
        return bool(shard.pieces)

    async def read(self, shard: WantedShard, offset_bytes: int) -> AsyncGenerator[bytes, None]:
        """See ShardSource."""
        skip = offset_bytes
        for piece in shard.pieces:
            if skip >= piece.size_bytes:
                skip -= piece.size_bytes
                continue
            start, size_bytes = piece.offset_bytes + skip, piece.size_bytes - skip
            skip = 0
            async with aclosing(self._source.read(piece.file, start, size_bytes)) as parts:
                async for part in parts:
                    yield part


class PeerShards:
    """Blobs of another shard-store, by what it offered."""

    def __init__(self, offer: Offer) -> None:
        self.name = offer.peer.name
        self._offer = offer
        self._files = frozenset(offer.document["files"])

    def holds(self, shard: WantedShard) -> bool:
        is_there = shard.group in self._offer.groups_held or shard.group in self._files
        return bool(shard.digest) and is_there

    async def read(self, shard: WantedShard, offset_bytes: int) -> AsyncGenerator[bytes, None]:
        """See ShardSource."""
        left = shard.size_bytes - offset_bytes
        async with aclosing(self._offer.peer.read(shard.digest, offset_bytes, left)) as parts:
            async for part in parts:
                yield part


class ShardFetcher:
    """Brings shards into the blob store. Two calls for one shard share one transfer."""

    def __init__(
        self,
        blobs: BlobStore,
        folder: Path,
        standings: Standings,
        clock: Clock,
        metrics: Metrics,
        retry_count_max: int,
    ) -> None:
        """folder: where unfinished shards lie, one folder per model."""
        self._blobs = blobs
        self._folder = folder
        self._standings = standings
        self._clock = clock
        self._metrics = metrics
        self._retry_count_max = retry_count_max
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def fetch(
        self, shard: WantedShard, sources: Sequence[ShardSource], progress: ShardProgress
    ) -> BlobRef:
        """The shard as a blob.

        Raises StorageFull, RemoteChanged, NoSource, or what the last source raised when none is
        left; what has arrived by then is kept for the next call.
        """
        if not shard.key:
            raise NoSource(shard.model, shard.group)
        turn = self._turns.setdefault(shard.key, asyncio.Lock())
        async with turn:
            ref = BlobRef(shard.digest, shard.size_bytes)
            is_here = bool(shard.digest) and await asyncio.to_thread(self._blobs.has, ref)
            if is_here:
                progress.bytes_done = shard.size_bytes
                return ref
            folder = self._folder / shard.model
            await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
            transfer = _Transfer(self, shard, PartialShard(folder, shard.key), progress)
            return await transfer.run(sources)


class _Transfer:
    """One shard's way here, over as many sources as it takes."""

    def __init__(
        self,
        fetcher: ShardFetcher,
        shard: WantedShard,
        partial: PartialShard,
        progress: ShardProgress,
    ) -> None:
        self._blobs = fetcher._blobs
        self._standings = fetcher._standings
        self._clock = fetcher._clock
        self._metrics = fetcher._metrics
        self._retry_count_max = fetcher._retry_count_max
        self._shard = shard
        self._partial = partial
        self._progress = progress
        self._senders: set[str] = set()
        self._refused: set[str] = set()
        self._failure_count = 0
        self._is_unmixed = False
        self._last_error: ShoalError | None = None

    async def run(self, sources: Sequence[ShardSource]) -> BlobRef:
        partial = self._partial
        try:
            if await in_thread(partial.open):
                self._senders.add("")  # Somebody, before a restart.
            while True:
                source = await self._next(sources)
                before = partial.size_bytes
                try:
                    with self._standings.asking(source.name):
                        await self._copy(source)
                    ref = await self._kept(source)
                    if ref is not None:
                        return ref
                except _OURS:
                    raise
                except ShoalError as err:
                    await self._failed(source, err, partial.size_bytes > before)
        finally:
            self._progress.source = ""
            await in_thread(self._close)

    def _close(self) -> None:
        try:
            self._partial.mark()
        except OSError as err:
            log.warning("unfinished shard not marked", extra={"error": type(err).__name__})
        finally:
            self._partial.close()

    async def _next(self, sources: Sequence[ShardSource]) -> ShardSource:
        shard = self._shard
        left = [each for each in sources if each.holds(shard) and each.name not in self._refused]
        source = self._standings.best(left)
        if source is None:
            raise self._last_error or NoSource(shard.model, shard.group)
        self._progress.source = ""
        if wait_s := self._standings.wait_s(source.name):
            await self._clock.sleep(wait_s)
        if self._is_unmixed and self._senders - {source.name}:
            await in_thread(self._partial.quarantine)
            self._senders.clear()
        self._progress.source = source.name
        return source

    async def _copy(self, source: ShardSource) -> None:
        """Append what is missing, a MiB at a time; what came before an error is kept."""
        partial, progress = self._partial, self._progress
        progress.bytes_done = partial.size_bytes
        if partial.size_bytes > self._shard.size_bytes:
            raise SourceLies(source.name, self._shard.group, "more bytes than were announced")
        if partial.size_bytes == self._shard.size_bytes:
            return
        buffer = bytearray()
        before = partial.size_bytes
        self._senders.add(source.name)
        try:
            async with aclosing(source.read(self._shard, partial.size_bytes)) as pieces:
                async for piece in pieces:
                    buffer += piece
                    progress.bytes_done += len(piece)
                    progress.meter.add(len(piece))
                    if len(buffer) >= CHUNK_SIZE_BYTES:
                        await in_thread(partial.append, bytes(buffer))
                        buffer.clear()
        finally:
            if buffer:
                await in_thread(partial.append, bytes(buffer))
            kind = source.name.split(" ")[0]
            self._metrics.bytes_fetched.labels(kind).inc(partial.size_bytes - before)

    async def _kept(self, source: ShardSource) -> BlobRef | None:
        """The finished blob; None when its bytes were wrong and it has to be fetched again."""
        digest = self._partial.digest()
        if self._partial.size_bytes != self._shard.size_bytes:
            raise SourceLies(source.name, self._shard.group, "fewer bytes than were announced")
        if self._shard.digest in ("", digest):
            return await in_thread(self._partial.finish, self._blobs)
        self._metrics.shards_damaged.inc()
        extra = {"group": self._shard.group, "source": source.name}
        log.warning("shard arrived damaged", extra=extra)
        await in_thread(self._partial.quarantine)
        if self._senders == {source.name}:
            raise SourceLies(source.name, self._shard.group, "its BLAKE3 is another")
        # Who of several is to blame shows when one of them sends it all.
        self._is_unmixed = True
        self._senders.clear()
        return None

    async def _failed(self, source: ShardSource, err: ShoalError, has_progressed: bool) -> None:
        """Decide how to go on after an error. Raises it when there is no way to."""
        name = source.name
        if isinstance(err, SourceLies):
            penalty_s = self._standings.penalise(name)
            extra = {"source": name, "penalty_s": penalty_s, "error": str(err)}
            log.warning("source penalised", extra=extra)
        is_final = not err.retryable or isinstance(err, (UnknownBlob, CorruptBlob))
        if is_final:
            self._refused.add(name)
            self._last_error = err
            return
        self._failure_count = 1 if has_progressed else self._failure_count + 1
        self._progress.retry_count += 1
        if self._failure_count > self._retry_count_max:
            raise err
        wait_s = _BACKOFF_S * 2 ** (self._failure_count - 1)
        if isinstance(err, SourceBusy):
            wait_s = max(wait_s, err.retry_after_s)
        log.info("source to be asked again", extra={"source": name, "wait_s": wait_s})
        self._standings.postpone(name, wait_s)


async def in_thread(work: Callable[..., R], *arguments: Any) -> R:
    """Run blocking work on a file to its end, even when the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue
        task.cancelled() or task.exception()
        raise
