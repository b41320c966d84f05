"""One model on its way here: plan, make room, fetch, record.

Owns the order of those steps and what is written down between them. Whatever ends it early, the
shards that arrived are blobs, the rest goes on where it was, and the model's newest manifest is
what it was before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.catalog import Catalog
from shoal_shard_store.errors import (
    DamagedManifest,
    NoSource,
    RemoteChanged,
    SourceBusy,
)
from shoal_shard_store.manifest import (
    BlobRef,
    ShardPlan,
    canonical_bytes,
    manifest_bytes,
    plan_shards,
)
from shoal_shard_store.manifest_check import (
    groups_wanted,
    layout_of,
    merged,
    missing_digests,
    read_manifest,
    shards_of,
    with_digests,
)
from shoal_shard_store.neighbours import Neighbours
from shoal_shard_store.order import Order, OrderBook
from shoal_shard_store.progress import DownloadProgress, DownloadState, Meter, ShardProgress
from shoal_shard_store.remote_model import RemoteModel, read_model
from shoal_shard_store.room import MakeRoom, Room
from shoal_shard_store.shard_fetch import (
    FileShards,
    PeerShards,
    ShardFetcher,
    ShardSource,
    WantedShard,
    in_thread,
    pieces_of,
)
from shoal_shard_store.sources.base import FileSource
from shoal_shard_store.sources.peer import Offer
from shoal_shard_store.standing import Standings

log = logging.getLogger(__name__)

_PLANS_MAX = 3
_BACKOFF_S = 0.5


@dataclass(frozen=True)
class Workshop:
    """What every acquisition works with."""

    blobs: BlobStore
    catalog: Catalog
    neighbours: Neighbours
    book: OrderBook
    fetcher: ShardFetcher
    standings: Standings
    room: Room
    make_room: MakeRoom
    clock: Clock
    slots: asyncio.Semaphore
    """One per shard that may be fetched at the same time."""
    slot_count: int
    node_id: str
    shard_size_bytes: int
    retry_count_max: int
    source_of: Callable[[Order, Mapping[str, Any] | None], FileSource | None]
    """Where an order's files are; None when only other stores are asked. May raise InvalidRepo."""


@dataclass
class _Plan:
    """What is wanted, and who has it. `document` gains digests as shards arrive."""

    document: dict[str, Any]
    shards: list[WantedShard]
    indexes: dict[WantedShard, int]
    sources: list[ShardSource]
    small_files: Mapping[str, bytes]


class Acquisition:
    """One order being carried out. `run` it once."""

    def __init__(self, workshop: Workshop, order: Order, progress: DownloadProgress) -> None:
        self._shop = workshop
        self._order = order
        self._progress = progress
        self._away: ShoalError | None = None

    async def run(self) -> None:
        """Bring what was ordered here.

        Raises what keeps it from being done; asking again goes on from there.
        """
        for attempt in range(_PLANS_MAX):
            try:
                await self._once()
                return
            except NoSource as err:
                if self._away is None:
                    raise
                # The source that was named could not be reached, and nobody else has it.
                raise self._away from err
            except RemoteChanged:
                # The changed file's header may be another one, so everything is planned anew;
                # shards of files that did not change are known by their keys.
                log.warning("file changed on its server", extra={"model": self._order.model})
                if attempt == _PLANS_MAX - 1:
                    raise

    async def _once(self) -> None:
        progress = self._progress
        progress.state = DownloadState.PLANNING
        source = self._shop.source_of(self._order, await self._stored())
        try:
            plan = await self._planned(source)
            needed_bytes = await self._counted(plan)
            async with self._shop.room.reserved(
                needed_bytes,
                lambda: progress.bytes_total - progress.bytes_done,
                self._shop.make_room,
            ):
                await self._carry_out(plan)
        finally:
            if source is not None:
                await source.close()

    async def _carry_out(self, plan: _Plan) -> None:
        for data in plan.small_files.values():
            await in_thread(self._write_small, data)
        self._progress.state = DownloadState.RUNNING
        try:
            await self._fetch_all(plan)
        except BaseException:
            await in_thread(self._save_part, plan.document)
            raise
        assert self._progress.shards_done == self._progress.shards_total
        self._progress.revision = await in_thread(self._save, plan.document)

    async def _stored(self) -> dict[str, Any] | None:
        stored = await asyncio.to_thread(self._shop.catalog.best, self._order.model)
        return None if stored is None else stored.document()

    async def _planned(self, source: FileSource | None) -> _Plan:
        offers = await self._shop.neighbours.offers(self._order.model)
        stored = await self._stored()
        remote = None
        if source is not None:
            file_name = self._file_name(source, stored)
            remote = await self._described(source, file_name, may_fail=bool(offers or stored))
        if remote is not None and source is not None:
            return await self._plan_of(remote, source, offers, stored)
        document, offers = self._best_known(offers, stored)
        return self._listed(document, offers, [PeerShards(offer) for offer in offers], {}, None)

    def _file_name(self, source: FileSource, stored: Mapping[str, Any] | None) -> str:
        """The GGUF file that is meant; empty for safetensors, or where there is but one."""
        if source.name == "folder":
            return self._order.file.rsplit("/", 1)[-1]
        if self._order.repo or stored is None:
            return self._order.file
        # Only the model's name was given: the file that it came from.
        files = list(stored.get("source", {}).get("files", ()))
        return files[0] if len(files) == 1 and files[0].endswith(".gguf") else ""

    async def _described(
        self, source: FileSource, file_name: str, may_fail: bool
    ) -> RemoteModel | None:
        """The model at its source; None when that is away and other stores may do."""
        failure_count = 0
        while True:
            try:
                return await read_model(source, file_name)
            except RemoteChanged:
                raise
            except ShoalError as err:
                failure_count += 1
                if not err.retryable:
                    raise
                if failure_count > self._shop.retry_count_max:
                    if may_fail:
                        log.warning("source is away", extra={"source": source.name})
                        self._away = err
                        return None
                    raise
                wait_s = _BACKOFF_S * 2 ** (failure_count - 1)
                if isinstance(err, SourceBusy):
                    wait_s = max(wait_s, err.retry_after_s)
                await self._shop.clock.sleep(wait_s)

    async def _plan_of(
        self,
        remote: RemoteModel,
        source: FileSource,
        offers: list[Offer],
        stored: Mapping[str, Any] | None,
    ) -> _Plan:
        layer_count = remote.facts.layer_count
        shard_plan = plan_shards(remote.tensors, layer_count, self._shop.shard_size_bytes)
        document = _drafted(self._order.model, remote, shard_plan)
        layout = layout_of(document)
        if stored is not None and layout_of(stored) == layout:
            document = merged(document, stored)
        document, offers = self._merged_offers(document, layout, offers)
        pieces = {
            segment.shard: pieces_of(segment, remote.files)
            for group in shard_plan.groups
            for segment in group.segments
        }
        sources: list[ShardSource] = [PeerShards(offer) for offer in offers]
        sources.append(FileShards(source))
        plan = self._listed(document, offers, sources, remote.side_files, pieces)
        journal = await asyncio.to_thread(self._shop.book.journal, self._order.model)
        known = {
            index: journal[shard.key]
            for shard, index in plan.indexes.items()
            if not shard.digest and shard.key in journal
        }
        if not known:
            return plan
        document = with_digests(document, known)
        return self._listed(document, offers, sources, remote.side_files, pieces)

    def _merged_offers(
        self, document: dict[str, Any], layout: str, offers: list[Offer]
    ) -> tuple[dict[str, Any], list[Offer]]:
        """The digests that stores with the same weights know; who contradicts is left out."""
        believed = []
        for offer in offers:
            if layout_of(offer.document) != layout:
                continue
            try:
                document = merged(document, offer.document)
                believed.append(offer)
            except DamagedManifest as err:
                self._shop.standings.penalise(offer.peer.name)
                extra = {"peer": offer.peer.address, "error": str(err)}
                log.warning("manifest of a neighbour refused", extra=extra)
        return document, believed

    def _best_known(
        self, offers: list[Offer], stored: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], list[Offer]]:
        """The manifest that is stored here, else the one of which the others hold most."""
        if stored is not None:
            return self._merged_offers(dict(stored), layout_of(stored), offers)
        held: dict[str, set[str]] = {}
        for offer in offers:
            held.setdefault(layout_of(offer.document), set()).update(offer.groups_held)
        if not held:
            raise NoSource(self._order.model, "anything")
        layout = max(held, key=lambda each: (len(held[each]), each))
        first = next(offer for offer in offers if layout_of(offer.document) == layout)
        return self._merged_offers(dict(first.document), layout, offers)

    def _listed(
        self,
        document: dict[str, Any],
        offers: list[Offer],
        sources: list[ShardSource],
        small_files: Mapping[str, bytes],
        pieces: Mapping[int, Any] | None,
    ) -> _Plan:
        """Everything wanted, rarest first; in doubt in the model's order."""
        shop, order = self._shop, self._order
        node_ids = shop.neighbours.node_ids()
        layers = order.wanted_layers(document["layer_count"], shop.node_id, node_ids)
        groups = set(groups_wanted(document, layers))
        shards: list[WantedShard] = []
        for name, ref in document["files"].items():
            if name not in small_files:
                shards.append(WantedShard(order.model, name, ref["size_bytes"], ref["digest"]))
        indexes: dict[WantedShard, int] = {}
        for group, numbers in shards_of(document).items():
            for number in numbers if group in groups else ():
                ref = document["shards"][number]
                parts = () if pieces is None else pieces[number]
                shard = WantedShard(order.model, group, ref["size_bytes"], ref["digest"], parts)
                indexes[shard] = number
        rarity = {shard: sum(each.holds(shard) for each in sources) for shard in indexes}
        shards += sorted(indexes, key=lambda shard: (rarity[shard], indexes[shard]))
        return _Plan(document, shards, indexes, sources, small_files)

    async def _counted(self, plan: _Plan) -> int:
        """Leave in the plan what is missing; returns the bytes that it will add to the disk."""
        shop, progress = self._shop, self._progress
        here = await asyncio.to_thread(self._here, plan.shards)
        missing = [shard for shard in plan.shards if shard not in here]
        small_bytes = sum(len(data) for data in plan.small_files.values())
        progress.shards_total = len(plan.shards)
        progress.shards_done = len(here)
        progress.bytes_total = sum(shard.size_bytes for shard in plan.shards)
        progress.bytes_kept = sum(shard.size_bytes for shard in here)
        unfinished = await asyncio.to_thread(shop.book.unfinished_bytes, self._order.model)
        plan.shards = missing
        missing_bytes = sum(shard.size_bytes for shard in missing)
        # What is here already may always be looked at again, even above the limit.
        return max(0, missing_bytes + small_bytes - unfinished) if missing else 0

    def _here(self, shards: list[WantedShard]) -> set[WantedShard]:
        has = self._shop.blobs.has
        return {
            shard
            for shard in shards
            if shard.digest and has(BlobRef(shard.digest, shard.size_bytes))
        }

    def _write_small(self, data: bytes) -> None:
        blobs = self._shop.blobs
        if blobs.has(BlobRef(blake3(data).hexdigest(), len(data))):
            return
        with blobs.writer() as writer:
            writer.write(data)
            blobs.keep(writer)

    async def _fetch_all(self, plan: _Plan) -> None:
        waiting = deque(plan.shards)

        async def work() -> None:
            while waiting:
                async with self._shop.slots:
                    if waiting:
                        await self._fetch(plan, waiting.popleft())

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._shop.slot_count, len(waiting))):
                    group.create_task(work())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def _fetch(self, plan: _Plan, shard: WantedShard) -> None:
        shop, progress = self._shop, self._progress
        number = plan.indexes.get(shard)
        label = shard.group if number is None else f"{shard.group}#{number}"
        state = ShardProgress(shard.group, shard.size_bytes, _Both(shop.clock, progress.meter))
        progress.running[label] = state
        try:
            ref = await shop.fetcher.fetch(shard, plan.sources, state)
            if number is not None and not shard.digest:
                await in_thread(shop.book.note, self._order.model, shard.key, ref.digest)
                plan.document = with_digests(plan.document, {number: ref.digest})
            progress.bytes_kept += shard.size_bytes
            progress.shards_done += 1
        finally:
            del progress.running[label]

    def _save(self, document: Mapping[str, Any]) -> str:
        """Record the manifest; the revision, or "" while digests are missing from it."""
        catalog, model = self._shop.catalog, self._order.model
        raw = canonical_bytes(document)
        if missing_digests(document):
            catalog.put_draft(model, raw)
            return ""
        stored = catalog.best(model)
        if stored is not None and stored.revision and stored.manifest_json == raw:
            return stored.revision
        return catalog.put_acquired(model, raw).revision

    def _save_part(self, document: Mapping[str, Any]) -> None:
        """After a failure: what is known replaces nothing but an older draft of the same."""
        stored = self._shop.catalog.best(self._order.model)
        is_same = stored is None or layout_of(stored.document()) == layout_of(document)
        has_any = any(shard["digest"] for shard in document["shards"])
        if is_same and has_any and (stored is None or not stored.revision):
            try:
                self._save(document)
            except OSError as err:  # A full disk; the journal knows the shards, too.
                log.warning("draft not kept", extra={"error": type(err).__name__})


class _Both(Meter):
    """Counts for a shard and for its download."""

    def __init__(self, clock: Clock, whole: Meter) -> None:
        super().__init__(clock)
        self._whole = whole

    def add(self, size_bytes: int) -> None:
        super().add(size_bytes)
        self._whole.add(size_bytes)


def _drafted(model: str, remote: RemoteModel, plan: ShardPlan) -> dict[str, Any]:
    """The manifest of a model of which no shard is known yet."""
    files = {
        name: BlobRef(blake3(data).hexdigest(), len(data))
        for name, data in remote.side_files.items()
    }
    segments = [segment for group in plan.groups for segment in group.segments]
    shards = [BlobRef("", segment.size_bytes) for segment in segments]
    blank = {segment: "" for segment in segments}
    raw = manifest_bytes(model, remote.facts, files, shards, plan, blank, remote.identity)
    return read_manifest(raw, model)
