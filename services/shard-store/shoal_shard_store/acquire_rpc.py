"""The whole `ShardStoreService`: beside reading, what brings models here and takes them away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal_common.errors import ShoalError, UnknownModel
from shoal_shard_store.acquire import Acquirer, is_fetchable
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.catalog import Catalog, check_model_name
from shoal_shard_store.errors import CorruptBlob, DownloadConflict, NoSource, UnknownGroup
from shoal_shard_store.importer import Importer
from shoal_shard_store.manifest_check import groups_wanted
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.order import Order, OrderBook
from shoal_shard_store.prune import EVERYTHING, Pruner, remove_groups, remove_model
from shoal_shard_store.rpc import ReadCount, ShardStoreRpc
from shoal_shard_store.rpc_messages import (
    download_message,
    gguf_path,
    imported_message,
    order_of,
    pruned_message,
)

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class AcquireRpc(ShardStoreRpc):
    """Answers every call. Errors leave as ShoalError."""

    def __init__(
        self,
        blobs: BlobStore,
        catalog: Catalog,
        importer: Importer,
        roots: tuple[Path, ...],
        metrics: Metrics,
        on_change: Callable[[], None],
        node_id: str,
        reads: ReadCount,
        acquirer: Acquirer,
        pruner: Pruner,
        book: OrderBook,
    ) -> None:
        super().__init__(blobs, catalog, importer, roots, metrics, on_change, node_id, reads)
        self._acquirer = acquirer
        self._pruner = pruner
        self._book = book

    async def ImportModel(
        self, request: pb.ImportModelRequest, context: _Context
    ) -> AsyncIterator[pb.ImportModelResponse]:
        """Import a folder, or a GGUF file, below one of the allowed roots, with progress."""
        is_gguf = request.path.endswith(".gguf")
        steps = self._import_gguf(request) if is_gguf else super().ImportModel(request, context)
        async for step in steps:
            yield step

    async def _import_gguf(
        self, request: pb.ImportModelRequest
    ) -> AsyncIterator[pb.ImportModelResponse]:
        path = await asyncio.to_thread(gguf_path, request.path, self._roots)
        order = Order(request.model or path.stem, file=str(path))
        async with aclosing(self._acquirer.run(order)) as downloads:
            async for download in downloads:
                yield imported_message(download)

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
