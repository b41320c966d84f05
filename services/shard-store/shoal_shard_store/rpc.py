"""`ShardStoreService` over gRPC: translation between messages and the domain, nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common.errors import UnknownModel
from shoal_shard_store.blob_store import CHUNK_SIZE_BYTES, BlobStore
from shoal_shard_store.catalog import Catalog
from shoal_shard_store.errors import (
    CorruptBlob,
    InvalidByteRange,
)
from shoal_shard_store.holdings import Shelf, groups_held
from shoal_shard_store.importer import Importer
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.model_folder import allowed_folder
from shoal_shard_store.rpc_messages import (
    import_message,
    model_message,
)

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ReadCount:
    """Reads of blobs under way."""

    def __init__(self) -> None:
        self.value = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        self.value += 1
        try:
            yield
        finally:
            self.value -= 1


class ShardStoreRpc(pb_grpc.ShardStoreServiceServicer):
    """Answers the calls that take folders in and hand bytes out. Errors leave as ShoalError."""

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        importer: Importer,
        roots: tuple[Path, ...],
        metrics: Metrics,
        on_change: Callable[[], None] = lambda: None,
        node_id: str = "",
        reads: ReadCount | None = None,
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._importer = importer
        self._roots = roots
        self._metrics = metrics
        self._on_change = on_change
        self._node_id = node_id
        self._reads = ReadCount() if reads is None else reads
        self._shelf = Shelf(blobs, catalog, node_id)
        self._listing = asyncio.Lock()

    async def ImportModel(
        self, request: pb.ImportModelRequest, context: _Context
    ) -> AsyncIterator[pb.ImportModelResponse]:
        """Import a folder below one of the allowed roots, with progress."""
        metrics = self._metrics
        with metrics.requests.observed("ImportModel"), metrics.imports_open.track_inprogress():
            folder = await asyncio.to_thread(allowed_folder, request.path, self._roots)
            async with aclosing(self._importer.run(folder, request.model)) as steps:
                async for progress in steps:
                    if progress.is_complete:
                        self._on_change()
                    yield import_message(progress)

    async def ListModels(
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsResponse:
        """Every model's newest revision, drafts among them."""
        with self._metrics.requests.observed("ListModels"):
            async with self._listing:  # The shelf is for one thread at a time.
                return pb.ListModelsResponse(models=await asyncio.to_thread(self._list))

    async def GetManifest(
        self, request: pb.GetManifestRequest, context: _Context
    ) -> pb.GetManifestResponse:
        """A manifest as it was stored."""
        with self._metrics.requests.observed("GetManifest"):
            return await asyncio.to_thread(self._manifest, request)

    def _manifest(self, request: pb.GetManifestRequest) -> pb.GetManifestResponse:
        if not request.accepts_draft:
            stored = self._catalog.get(request.model, request.revision)
            return pb.GetManifestResponse(
                model=stored.model, revision=stored.revision, manifest_json=stored.manifest_json
            )
        best = self._catalog.best(request.model)
        if best is None:
            raise UnknownModel(request.model)
        return pb.GetManifestResponse(
            model=best.model,
            revision=best.revision,
            manifest_json=best.manifest_json,
            groups_held=sorted(groups_held(best.document(), self._blobs)),
            node_id=self._node_id,
            reads_open=self._reads.value,
        )

    async def ReadBlob(
        self, request: pb.ReadBlobRequest, context: _Context
    ) -> AsyncIterator[pb.ReadBlobResponse]:
        """Bytes of a verified blob in pieces of 1 MiB; the client's window sets the pace."""
        with self._metrics.requests.observed("ReadBlob"), self._reads.one_more():
            descriptor = await self._opened(request)
            try:
                offset_bytes, stop = _byte_range(request, os.fstat(descriptor).st_size)
                while offset_bytes < stop:
                    size_bytes = min(CHUNK_SIZE_BYTES, stop - offset_bytes)
                    data = await asyncio.to_thread(os.pread, descriptor, size_bytes, offset_bytes)
                    if not data:  # Cut short by somebody else since it was verified.
                        raise CorruptBlob(request.digest)
                    self._metrics.bytes_served.inc(len(data))
                    yield pb.ReadBlobResponse(offset_bytes=offset_bytes, data=data)
                    offset_bytes += len(data)
            finally:
                os.close(descriptor)

    async def _opened(self, request: pb.ReadBlobRequest) -> int:
        """A descriptor of the blob that is asked for; the caller closes it."""
        return await self._open(request.digest)

    async def _open(self, digest: str) -> int:
        opening = asyncio.ensure_future(asyncio.to_thread(self._blobs.open, digest))
        try:
            return await asyncio.shield(opening)
        except CorruptBlob:
            self._metrics.blobs_corrupt.inc()
            raise
        except asyncio.CancelledError:
            opening.add_done_callback(
                _close_opened
            )  # The thread goes on and opens it all the same.
            raise

    def _list(self) -> list[pb.StoredModel]:
        return [model_message(held, self._catalog.pins(held.model)) for held in self._shelf.held()]


def _close_opened(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())


def _byte_range(request: pb.ReadBlobRequest, size_bytes: int) -> tuple[int, int]:
    """[start, stop) of the bytes asked for; a length of 0 means to the end."""
    start = request.offset_bytes
    stop = start + request.length_bytes if request.length_bytes else size_bytes
    if start > size_bytes or stop > size_bytes:
        raise InvalidByteRange(start, request.length_bytes, size_bytes)
    return start, stop
