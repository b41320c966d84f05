"""Wiring of the shard-store, in the order of its life; the only file that knows everyone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common import log as shoal_log
from shoal_common import trace
from shoal_common.app import run_service, until_signal, write_ready_file
from shoal_common.bus import Bus, NatsBus
from shoal_common.clock import Clock, SystemClock
from shoal_common.errors import ShoalError
from shoal_common.ids import new_incarnation
from shoal_common.metrics import new_registry
from shoal_common.rpc import RpcServer
from shoal_common.settings import load
from shoal_common.side import SideServer
from shoal_shard_store.announcer import Announcer, Shelf
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.catalog import Catalog
from shoal_shard_store.importer import Importer
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.model_folder import allowed_folder
from shoal_shard_store.rpc import ShardStoreRpc
from shoal_shard_store.settings import Settings

log = logging.getLogger(__name__)

SERVICE_NAME = "shoal.shard_store.v1.ShardStoreService"


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
    data_dir = settings.fleet.data_dir
    registry = new_registry()
    blobs = BlobStore(data_dir / "blobs")
    removed = await asyncio.to_thread(blobs.remove_unfinished)
    catalog = Catalog(data_dir / "manifests")
    importer = Importer(blobs, catalog, settings.shard_size_bytes)
    metrics = Metrics(registry)
    announcer = Announcer(
        connect or (lambda: connect_nats(settings)),
        Shelf(blobs, catalog, new_incarnation()),
        clock or SystemClock(),
        settings.announce_interval_s,
        metrics.announcements,
    )
    servicer = ShardStoreRpc(
        blobs, catalog, importer, settings.allowed_roots, metrics, announcer.announce_now
    )
    server = RpcServer(
        settings.listen_address,
        token=settings.fleet.secret_token(),
        drain_timeout_s=settings.drain_timeout_s,
    )
    server.add(pb_grpc.add_ShardStoreServiceServicer_to_server, servicer, SERVICE_NAME)
    is_ready = asyncio.Event()
    side = SideServer(settings.side_address, registry, is_ready.is_set)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(side.stop)
        side_address = await side.start()
        stack.push_async_callback(server.stop)
        address = await server.start()
        write_ready_file(settings.ready_file, grpc=address, side=side_address, http="")
        log.info("shard-store listening", extra={"address": address, "unfinished_removed": removed})
        stack.push_async_callback(_end, asyncio.create_task(announcer.run()))
        imports = asyncio.create_task(import_configured(importer, settings, is_ready))
        imports.add_done_callback(lambda _: announcer.announce_now())
        stack.push_async_callback(_end, imports)
        stack.callback(is_ready.clear)
        yield address


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
