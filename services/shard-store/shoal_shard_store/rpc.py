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
from shoal_common.errors import ShoalError, UnknownModel
from shoal_shard_store.acquire import Acquirer, is_fetchable
from shoal_shard_store.blob_store import CHUNK_SIZE_BYTES, BlobStore
from shoal_shard_store.catalog import Catalog, check_model_name
from shoal_shard_store.errors import (
    CorruptBlob,
    DownloadConflict,
    InvalidByteRange,
    NoSource,
    UnknownGroup,
)
from shoal_shard_store.holdings import Shelf, groups_held
from shoal_shard_store.importer import Importer
from shoal_shard_store.manifest_check import groups_wanted
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.model_folder import allowed_folder
from shoal_shard_store.order import Order, OrderBook
from shoal_shard_store.prune import EVERYTHING, Pruner, remove_groups, remove_model
from shoal_shard_store.rpc_messages import (
    download_message,
    gguf_path,
    import_message,
    imported_message,
    model_message,
    order_of,
    pruned_message,
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
    """Answers the service's calls. Errors leave as ShoalError."""

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        shelf: Shelf,
        importer: Importer,
        acquirer: Acquirer,
        pruner: Pruner,
        book: OrderBook,
        roots: tuple[Path, ...],
        node_id: str,
        reads: ReadCount,
        metrics: Metrics,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._blobs = blobs
        self._catalog = catalog
        self._shelf = shelf
        self._importer = importer
        self._acquirer = acquirer
        self._pruner = pruner
        self._book = book
        self._roots = roots
        self._node_id = node_id
        self._reads = reads
        self._metrics = metrics
        self._on_change = on_change
        self._listing = asyncio.Lock()

    async def ImportModel(
        self, request: pb.ImportModelRequest, context: _Context
    ) -> AsyncIterator[pb.ImportModelResponse]:
        """Import a folder below one of the allowed roots, with progress."""
        metrics = self._metrics
        with metrics.requests.observed("ImportModel"), metrics.imports_open.track_inprogress():
            if request.path.endswith(".gguf"):
                async for step in self._import_gguf(request):
                    yield step
                return
            folder = await asyncio.to_thread(allowed_folder, request.path, self._roots)
            async with aclosing(self._importer.run(folder, request.model)) as steps:
                async for progress in steps:
                    if progress.is_complete:
                        self._on_change()
                    yield import_message(progress)

    async def _import_gguf(
        self, request: pb.ImportModelRequest
    ) -> AsyncIterator[pb.ImportModelResponse]:
        path = await asyncio.to_thread(gguf_path, request.path, self._roots)
        order = Order(request.model or path.stem, file=str(path))
        async with aclosing(self._acquirer.run(order)) as downloads:
            async for download in downloads:
                yield imported_message(download)

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

    async def AcquireModel(
        self, request: pb.AcquireModelRequest, context: _Context
    ) -> AsyncIterator[pb.AcquireModelResponse]:
        """Fetch a model, or watch it being fetched."""
        with self._metrics.requests.observed("AcquireModel"):
            order = await asyncio.to_thread(order_of, request, self._roots)
            async with aclosing(self._acquirer.run(order)) as downloads:
                async for download in downloads:
                    yield pb.AcquireModelResponse(download=download_message(download))

    async def ListDownloads(
        self, request: pb.ListDownloadsRequest, context: _Context
    ) -> pb.ListDownloadsResponse:
        """Downloads under way and those that ended last."""
        with self._metrics.requests.observed("ListDownloads"):
            found = [download_message(each) for each in self._acquirer.downloads()]
            return pb.ListDownloadsResponse(downloads=found)

    async def CancelDownload(
        self, request: pb.CancelDownloadRequest, context: _Context
    ) -> pb.CancelDownloadResponse:
        """End a download."""
        with self._metrics.requests.observed("CancelDownload"):
            was_cancelled = await self._acquirer.cancel(request.model)
            return pb.CancelDownloadResponse(was_cancelled=was_cancelled)

    async def PinModel(self, request: pb.PinModelRequest, context: _Context) -> pb.PinModelResponse:
        """Keep a model, or groups of it, from being pruned."""
        with self._metrics.requests.observed("PinModel"):
            await asyncio.to_thread(self._pin, request.model, set(request.groups) or {EVERYTHING})
            return pb.PinModelResponse()

    async def UnpinModel(
        self, request: pb.UnpinModelRequest, context: _Context
    ) -> pb.UnpinModelResponse:
        """Let a model, or groups of it, be pruned again."""
        with self._metrics.requests.observed("UnpinModel"):
            await asyncio.to_thread(self._unpin, request.model, set(request.groups))
            return pb.UnpinModelResponse()

    async def RemoveModel(
        self, request: pb.RemoveModelRequest, context: _Context
    ) -> pb.RemoveModelResponse:
        """Forget a model, or free the bytes of some layers."""
        with self._metrics.requests.observed("RemoveModel"):
            if request.model in self._acquirer.running():
                raise DownloadConflict(request.model)
            freed_bytes = await asyncio.to_thread(self._remove, request)
            self._on_change()
            return pb.RemoveModelResponse(freed_bytes=freed_bytes)

    async def Prune(self, request: pb.PruneRequest, context: _Context) -> pb.PruneResponse:
        """Remove what enough others hold."""
        with self._metrics.requests.observed("Prune"):
            verdicts = await self._pruner.prune(
                request.model,
                request.wanted_bytes,
                self._acquirer.running(),
                request.is_dry_run,
            )
            self._on_change()
            freed = [each.held.size_bytes for each in verdicts if not each.kept_because]
            return pb.PruneResponse(
                groups=[pruned_message(each) for each in verdicts],
                freed_bytes=0 if request.is_dry_run else sum(freed),
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
        try:
            return await self._open(request.digest)
        except ShoalError as err:
            if request.is_local_only or not is_fetchable(err):
                raise
            try:
                await self._acquirer.fetch_blob(request.digest)
            except NoSource:
                if isinstance(err, CorruptBlob):  # Only that says what is wrong here.
                    raise err from None
                raise
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

    def _pin(self, model: str, groups: set[str]) -> None:
        stored = self._catalog.best(model)
        if stored is None:
            raise UnknownModel(model, tuple(self._catalog.models()))
        known = {EVERYTHING, *groups_wanted(stored.document(), None)}
        if groups - known:
            raise UnknownGroup(model, sorted(groups - known)[0])
        self._catalog.put_pins(model, self._catalog.pins(model) | groups)

    def _unpin(self, model: str, groups: set[str]) -> None:
        left = self._catalog.pins(model) - groups if groups else frozenset[str]()
        self._catalog.put_pins(model, left)

    def _remove(self, request: pb.RemoveModelRequest) -> int:
        model = request.model
        check_model_name(model)
        if request.HasField("layers"):
            stored = self._catalog.best(model)
            if stored is None:
                raise UnknownModel(model, tuple(self._catalog.models()))
            span = request.layers
            document = stored.document()
            order = Order(model, layers=(span.layer_start, span.layer_stop))
            layers = order.wanted_layers(document["layer_count"], self._node_id, [])
            names = {f"layer.{layer}" for layer in layers or ()}
            return remove_groups(self._blobs, self._catalog, model, names)
        freed_bytes = self._book.discard(model)
        if self._catalog.best(model) is None and freed_bytes:
            return freed_bytes
        return freed_bytes + remove_model(self._blobs, self._catalog, model)


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
