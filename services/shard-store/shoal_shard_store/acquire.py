"""The queue of downloads, and blobs that are fetched because somebody asked for them.

Owns the tasks: they run on when whoever asked goes away, survive a restart by their orders, and end
with the service. Does not know how a model is fetched (`acquisition`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable

from shoal_common.errors import Cancelled, ShoalError
from shoal_shard_store.acquisition import Acquisition, Workshop
from shoal_shard_store.blob_store import storage_error
from shoal_shard_store.errors import (
    CorruptBlob,
    DownloadConflict,
    NoSource,
    TooManyDownloads,
    UnknownBlob,
)
from shoal_shard_store.manifest_check import layout_of
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.order import Order
from shoal_shard_store.progress import DownloadProgress, DownloadState, Meter, ShardProgress
from shoal_shard_store.shard_fetch import PeerShards, WantedShard

log = logging.getLogger(__name__)

DOWNLOADS_MAX = 64
ENDED_KEPT_MAX = 32
BLOBS_FETCHED_MAX = 32
PROGRESS_INTERVAL_S = 0.25


class _Job:
    """A download and its outcome."""

    def __init__(self, order: Order, progress: DownloadProgress) -> None:
        self.order = order
        self.progress = progress
        self.error: BaseException | None = None
        self.has_ended = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = False


class Acquirer:
    """Downloads by model. At most one per model is under way."""

    def __init__(self, workshop: Workshop, metrics: Metrics, on_change: Callable[[], None]) -> None:
        """on_change: something is here that was not."""
        self._shop = workshop
        self._metrics = metrics
        self._on_change = on_change
        self._jobs: dict[str, _Job] = {}
        self._ended: OrderedDict[str, DownloadProgress] = OrderedDict()
        self._blobs: dict[str, asyncio.Task[None]] = {}

    async def resume(self) -> None:
        """Go on with what an earlier process had not finished."""
        for order in await asyncio.to_thread(lambda: list(self._shop.book.orders())):
            try:
                await self._started(order)
                log.info("download resumed", extra={"model": order.model})
            except ShoalError as err:
                log.warning("download not resumed", extra={"error": str(err)})

    async def run(self, order: Order) -> AsyncGenerator[DownloadProgress, None]:
        """Carry an order out, or join the one under way, and watch it; the last item is complete.

        Raises what the download failed with, Cancelled, DownloadConflict, TooManyDownloads. Leaving
        the iterator leaves the download running.
        """
        job = await self._started(order)
        while not job.has_ended.is_set():
            yield job.progress
            try:
                async with asyncio.timeout(PROGRESS_INTERVAL_S):
                    await job.has_ended.wait()
            except TimeoutError:
                continue
        if job.error is not None:
            raise job.error
        yield job.progress

    def downloads(self) -> list[DownloadProgress]:
        """Those under way, then those that ended last."""
        return [job.progress for job in self._jobs.values()] + list(reversed(self._ended.values()))

    def running(self) -> frozenset[str]:
        """Names of the models under way."""
        return frozenset(self._jobs)

    async def cancel(self, model: str) -> bool:
        """End a download and wait until it has; what arrived is kept. False when there is none."""
        job = self._jobs.get(model)
        if job is None or job.task is None:
            return False
        job.is_cancelled = True
        job.task.cancel()
        await asyncio.wait({job.task})
        return True

    async def close(self) -> None:
        """End everything; orders stay and go on with the next process."""
        tasks = [job.task for job in self._jobs.values() if job.task] + list(self._blobs.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for job in list(self._jobs.values()):  # Cancelled before their first step.
            job.error = Cancelled("the shard-store is stopping")
            self._end(job)

    async def fetch_blob(self, digest: str) -> None:
        """Bring a blob here that a manifest of this store names and another store holds.

        Goes on when the caller leaves. Raises UnknownBlob, NoSource, and what fetching raises.
        """
        task = self._blobs.get(digest)
        if task is None:
            if len(self._blobs) >= BLOBS_FETCHED_MAX:
                raise TooManyDownloads(BLOBS_FETCHED_MAX)
            task = asyncio.create_task(self._fetched(digest))
            self._blobs[digest] = task
            task.add_done_callback(lambda done: self._forget_blob(digest, done))
        await asyncio.shield(task)

    def _forget_blob(self, digest: str, task: asyncio.Task[None]) -> None:
        del self._blobs[digest]
        task.cancelled() or task.exception()

    async def _started(self, order: Order) -> _Job:
        job = self._jobs.get(order.model)
        if job is not None:
            if job.order != order:
                raise DownloadConflict(order.model)
            return job
        if len(self._jobs) >= DOWNLOADS_MAX:
            raise TooManyDownloads(DOWNLOADS_MAX)
        progress = DownloadProgress(order.model, order.repo, Meter(self._shop.clock))
        job = _Job(order, progress)
        self._jobs[order.model] = job
        self._ended.pop(order.model, None)
        try:
            await asyncio.to_thread(self._shop.book.put, order)
        except BaseException as err:
            del self._jobs[order.model]
            # For those who have joined it by now.
            is_ours = isinstance(err, Exception)
            job.error = err if is_ours else Cancelled("the caller left before it began")
            job.has_ended.set()
            raise
        self._metrics.downloads_open.inc()
        job.task = asyncio.create_task(self._carried_out(job))
        return job

    async def _carried_out(self, job: _Job) -> None:
        model, progress = job.order.model, job.progress
        try:
            await Acquisition(self._shop, job.order, progress).run()
            progress.state = DownloadState.COMPLETE
            await asyncio.to_thread(self._shop.book.close, model)
            extra = {"model": model, "size_bytes": progress.bytes_total}
            log.info("download complete", extra=extra)
        except asyncio.CancelledError:
            progress.state = DownloadState.CANCELLED
            job.error = Cancelled(f"the download of '{model}' was cancelled")
            if not job.is_cancelled:
                raise
            self._shop.book.withdraw(model)
        except ShoalError as err:
            self._failed(job, err)
        except OSError as err:
            self._failed(job, storage_error(err, 0, self._shop.book.folder))
        except Exception as err:
            log.exception("download broke", extra={"model": model})
            self._failed(job, err)
        finally:
            self._end(job)

    def _failed(self, job: _Job, err: Exception) -> None:
        job.error = err
        job.progress.state = DownloadState.FAILED
        job.progress.detail = str(err)[:500]
        extra = {"model": job.order.model, "error": type(err).__name__, "detail": str(err)}
        log.warning("download failed", extra=extra)
        # It would fail again at every start; whoever asked knows.
        self._shop.book.withdraw(job.order.model)

    def _end(self, job: _Job) -> None:
        del self._jobs[job.order.model]
        self._ended[job.order.model] = job.progress
        while len(self._ended) > ENDED_KEPT_MAX:
            self._ended.popitem(last=False)
        self._metrics.downloads_open.dec()
        job.has_ended.set()
        self._on_change()

    async def _fetched(self, digest: str) -> None:
        shard = await asyncio.to_thread(self._named, digest)
        if shard is None:
            raise UnknownBlob(digest)
        stored = await asyncio.to_thread(self._shop.catalog.best, shard.model)
        layout = layout_of(stored.document()) if stored else ""
        offers = await self._shop.neighbours.offers(shard.model)
        sources = [PeerShards(offer) for offer in offers if layout_of(offer.document) == layout]
        if not any(source.holds(shard) for source in sources):
            raise NoSource(shard.model, shard.group)
        state = ShardProgress(shard.group, shard.size_bytes, Meter(self._shop.clock))
        async with self._shop.room.reserved(
            shard.size_bytes, lambda: shard.size_bytes - state.bytes_done, self._shop.make_room
        ):
            await self._shop.fetcher.fetch(shard, sources, state)
        extra = {"model": shard.model, "group": shard.group}
        log.info("shard fetched on demand", extra=extra)
        self._on_change()

    def _named(self, digest: str) -> WantedShard | None:
        """The shard or small file of that digest in the newest manifests."""
        catalog = self._shop.catalog
        for model in catalog.models():
            document = catalog.get(model).document()
            for name, ref in document["files"].items():
                if ref["digest"] == digest:
                    return WantedShard(model, name, ref["size_bytes"], digest)
            for group in document["groups"]:
                for segment in group["segments"]:
                    ref = document["shards"][segment["shard"]]
                    if ref["digest"] == digest:
                        return WantedShard(model, group["name"], ref["size_bytes"], digest)
        return None


def is_fetchable(err: ShoalError) -> bool:
    """Whether another store may have what could not be read here."""
    return isinstance(err, (UnknownBlob, CorruptBlob))
