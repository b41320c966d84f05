"""Wiring of the shard-store, in the order of its life; the only file that knows everyone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal.shard_store.v1.beat_pb2 import StoreBeat
from shoal_common import log as shoal_log
from shoal_common import trace
from shoal_common.app import run_service, until_signal, write_ready_file
from shoal_common.bus import Bus, NatsBus
from shoal_common.clock import Clock, SystemClock
from shoal_common.errors import ShoalError
from shoal_common.ids import new_incarnation, new_node_id
from shoal_common.metrics import new_registry
from shoal_common.rpc import RpcServer, locator
from shoal_common.settings import load
from shoal_common.side import SideServer
from shoal_shard_store.acquire import Acquirer
from shoal_shard_store.acquire_rpc import AcquireRpc
from shoal_shard_store.acquisition import Workshop
from shoal_shard_store.announcer import Announcer
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.catalog import Catalog
from shoal_shard_store.errors import InvalidRepo
from shoal_shard_store.holdings import Shelf
from shoal_shard_store.importer import Importer
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.model_folder import allowed_folder
from shoal_shard_store.neighbours import Neighbours
from shoal_shard_store.order import Order, OrderBook
from shoal_shard_store.prune import Pruner, PruneRules
from shoal_shard_store.room import Room
from shoal_shard_store.rpc import ReadCount
from shoal_shard_store.settings import Settings
from shoal_shard_store.shard_fetch import ShardFetcher
from shoal_shard_store.sources.base import FileSource
from shoal_shard_store.sources.folder import FolderSource
from shoal_shard_store.sources.hub import HubSource, UrlSource
from shoal_shard_store.sources.web import new_session
from shoal_shard_store.standing import Standings

log = logging.getLogger(__name__)

SERVICE_NAME = "shoal.shard_store.v1.ShardStoreService"
_SILENCE_S_MIN = 10.0


def main(argv: Sequence[str] | None = None) -> None:
    """Run the shard-store until SIGTERM or SIGINT."""
    settings = load(Settings, argv)
    fleet = settings.fleet
    secrets = (fleet.secret_token(),)
    shoal_log.setup("shard-store", fleet.log_level, fleet.log_format, secrets=secrets)
    provider = trace.setup("shard_store")
    try:
        run_service(lambda: run(settings))
    finally:
        provider.shutdown()


async def run(settings: Settings) -> None:
    """Serve until a signal asks to stop, then drain."""
    async with serving(settings):
        log.info("shard-store stopping", extra={"signal": await until_signal()})


@asynccontextmanager
async def serving(
    settings: Settings,
    connect: Callable[[], Awaitable[Bus]] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[str]:
    """The whole service while the block runs; yields the bound gRPC address.

    `/readyz` turns ready once the configured folders were imported; requests are answered before.
    connect: to the bus that announcements go to; without it, to NATS as the settings say.
    """
    registry = new_registry()
    metrics = Metrics(registry)
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        rooms = await _furnish(settings, clock, metrics, stack)
        server = RpcServer(
            settings.listen_address,
            token=settings.fleet.secret_token(),
            drain_timeout_s=settings.drain_timeout_s,
        )
        announcer = Announcer(
            connect or (lambda: connect_nats(settings)),
            Shelf(rooms.blobs, rooms.catalog, rooms.store_id),
            rooms.catalog,
            rooms.neighbours,
            lambda: rooms.about(settings.advertise_address or server.address),
            clock,
            settings.announce_interval_s,
            metrics.announcements,
        )
        acquirer = Acquirer(rooms.workshop, metrics, announcer.announce_now)
        rooms.running.append(acquirer.running)
        servicer = _servicer(settings, rooms, metrics, acquirer, announcer.announce_now)
        server.add(pb_grpc.add_ShardStoreServiceServicer_to_server, servicer, SERVICE_NAME)
        is_ready = asyncio.Event()
        side = SideServer(settings.side_address, registry, is_ready.is_set)
        stack.push_async_callback(side.stop)
        side_address = await side.start()
        stack.push_async_callback(server.stop)
        address = await server.start()
        # Before the server: whoever watches a download would keep it from stopping.
        stack.push_async_callback(acquirer.close)
        write_ready_file(settings.ready_file, grpc=address, side=side_address, http="")
        log.info("shard-store listening", extra={"address": address})
        stack.push_async_callback(_end, asyncio.create_task(announcer.run()))
        await acquirer.resume()
        imports = asyncio.create_task(import_configured(rooms.importer, settings, is_ready))
        imports.add_done_callback(lambda _: announcer.announce_now())
        stack.push_async_callback(_end, imports)
        stack.callback(is_ready.clear)
        yield address


@dataclass(frozen=True)
class _Rooms:
    """What is made before the servers."""

    store_id: str
    node_id: str
    blobs: BlobStore
    catalog: Catalog
    book: OrderBook
    neighbours: Neighbours
    importer: Importer
    pruner: Pruner
    workshop: Workshop
    running: list[Callable[[], frozenset[str]]]
    """Who knows which models are being downloaded, once there is somebody."""
    reads: ReadCount = field(default_factory=ReadCount)

    def about(self, address: str) -> StoreBeat:
        """This store's beat without its holdings."""
        return StoreBeat(
            store_id=self.store_id,
            node_id=self.node_id,
            locator=locator(address),
            reads_open=self.reads.value,
        )


def _servicer(
    settings: Settings,
    rooms: _Rooms,
    metrics: Metrics,
    acquirer: Acquirer,
    on_change: Callable[[], None],
) -> AcquireRpc:
    return AcquireRpc(
        rooms.blobs,
        rooms.catalog,
        rooms.importer,
        settings.allowed_roots,
        metrics,
        on_change,
        rooms.node_id,
        rooms.reads,
        acquirer,
        rooms.pruner,
        rooms.book,
    )


async def _furnish(
    settings: Settings, clock: Clock, metrics: Metrics, stack: AsyncExitStack
) -> _Rooms:
    data_dir = settings.fleet.data_dir
    blobs = BlobStore(data_dir / "blobs")
    catalog = Catalog(data_dir / "manifests")
    book = OrderBook(data_dir / "downloads")
    swept = await asyncio.to_thread(lambda: blobs.remove_unfinished() + book.sweep())
    log.info("unfinished files removed", extra={"count": swept})
    store_id, node_id = new_incarnation(), await asyncio.to_thread(_node_id, data_dir)
    neighbours = Neighbours(
        clock,
        settings.fleet.secret_token(),
        store_id,
        settings.neighbours,
        max(_SILENCE_S_MIN, 5 * settings.announce_interval_s),
    )
    stack.push_async_callback(neighbours.close)
    session = new_session()
    stack.push_async_callback(session.close)
    rules = PruneRules(
        settings.prune_min_replicas, settings.prune_cooldown_s, settings.prune_holder_load_max
    )
    pruner = Pruner(blobs, catalog, neighbours, node_id, rules, clock, metrics)
    room = Room(blobs, book.folder, settings.max_disk_bytes)
    standings = Standings(clock)
    running: list[Callable[[], frozenset[str]]] = []

    async def make_room(wanted_bytes: int) -> None:
        if settings.prune_enabled:
            busy = frozenset[str]().union(*(each() for each in running))
            await pruner.prune(wanted_bytes=wanted_bytes, downloading=busy)

    workshop = Workshop(
        blobs=blobs,
        catalog=catalog,
        neighbours=neighbours,
        book=book,
        fetcher=ShardFetcher(
            blobs, book.folder, standings, clock, metrics, settings.download_retries
        ),
        standings=standings,
        room=room,
        make_room=make_room,
        clock=clock,
        slots=asyncio.Semaphore(settings.max_concurrent_downloads),
        slot_count=settings.max_concurrent_downloads,
        node_id=node_id,
        shard_size_bytes=settings.shard_size_bytes,
        retry_count_max=settings.download_retries,
        source_of=lambda order, stored: source_of(settings, session, order, stored),
    )
    importer = Importer(blobs, catalog, settings.shard_size_bytes, room.require)
    return _Rooms(
        store_id,
        node_id,
        blobs,
        catalog,
        book,
        neighbours,
        importer,
        pruner,
        workshop,
        running,
    )


def _node_id(data_dir: Path) -> str:
    """This store's name over restarts, made at its first start."""
    path = data_dir / "shard_store_node_id"
    try:
        if found := path.read_text().strip():
            return found
    except FileNotFoundError:
        pass
    made = new_node_id()
    path.write_text(made)
    return made


def source_of(
    settings: Settings,
    session: aiohttp.ClientSession,
    order: Order,
    stored: Mapping[str, Any] | None,
) -> FileSource | None:
    """Where an order's files are; a model that is known comes from where it came from.

    Raises InvalidRepo.
    """
    if not order.repo and order.file:
        return FolderSource(Path(order.file))
    origin, file = order.repo, order.file
    if not origin and stored is not None:
        source = stored.get("source", {})
        origin, files = source.get("origin", ""), list(source.get("files", ()))
        file = files[0] if len(files) == 1 and files[0].endswith(".gguf") else ""
    if not origin:
        return None
    if settings.offline:
        if order.repo:
            raise InvalidRepo(order.repo, "this store is offline (SHOAL_SHARD_STORE_OFFLINE)")
        return None
    if origin.startswith(("http://", "https://")):
        return UrlSource(session, origin, file, settings.url_hosts, settings.url_hosts)
    return HubSource(
        session,
        settings.hub_endpoint,
        origin,
        order.repo_revision,
        settings.hub_token.get_secret_value(),
        settings.hub_hosts,
    )


async def connect_nats(settings: Settings) -> Bus:
    """The fleet's bus. Raises Unavailable."""
    token = settings.fleet.secret_token()
    return await NatsBus.connect(settings.fleet.nats_url, token=token, name="shard-store")


async def import_configured(
    importer: Importer, settings: Settings, is_ready: asyncio.Event
) -> None:
    """Import the folders of `import_paths` in order, then set `is_ready`.

    One that is refused is logged; the others, and what is stored already, are served all the same.
    """
    for path in settings.import_paths:
        try:
            folder = await asyncio.to_thread(allowed_folder, str(path), settings.allowed_roots)
            async with aclosing(importer.run(folder, "")) as steps:
                async for _ in steps:
                    pass
        except (ShoalError, OSError) as err:
            log.error("configured import failed", extra={"path": str(path), "error": str(err)})
    is_ready.set()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
