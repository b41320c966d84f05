"""A store process that is killed in the middle of a download, and the next one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal_common.testing.waiting import eventually
from shoal_shard_store.testing import FakeHub, serving_hub

from . import stores
from .stores import TOKEN, Store, layer_bytes, repository


@contextmanager
def process_of(folder: Path, hub: FakeHub) -> Iterator[subprocess.Popen[bytes]]:
    """A store as a process of its own; its ready file says where it is."""
    folder.mkdir(exist_ok=True)
    (folder / "ready.json").unlink(missing_ok=True)
    settings = {
        "SHOAL_DATA_DIR": str(folder / "data"),
        "SHOAL_FLEET_TOKEN": TOKEN,
        "SHOAL_NATS_URL": "nats://127.0.0.1:1",
        "SHOAL_SHARD_STORE_HUB_ENDPOINT": hub.url,
        "SHOAL_SHARD_STORE_HUB_HOSTS": "localhost",
        "SHOAL_SHARD_STORE_READY_FILE": str(folder / "ready.json"),
        "SHOAL_SHARD_STORE_MAX_CONCURRENT_DOWNLOADS": "1",
    }
    variables = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")} | settings
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shoal_shard_store"], env=variables, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def reached(folder: Path) -> Store:
    ready = folder / "ready.json"
    await eventually(ready.exists)
    return Store(json.loads(ready.read_bytes())["grpc"], folder / "data")


async def test_a_killed_store_goes_on_by_itself_where_it_was(tmp_path: Path) -> None:
    async with serving_hub(FakeHub(repository())) as hub:
        hub.hold_after = 6000
        folder = tmp_path / "store"
        with process_of(folder, hub) as process:
            store = await reached(folder)
            call = store.stub.AcquireModel(stores.request_of("acme/tiny"), timeout=20)
            await anext(aiter(call))
            await hub.is_held.wait()
            process.kill()
            process.wait()
            call.cancel()
            await store.channel.close()
        blobs = store.files()
        (folder / "data" / "blobs" / "half.tmp").write_bytes(b"half")
        hub.go_on.set()
        before = len(hub.seen)
        with process_of(folder, hub):
            store = await reached(folder)
            # Nobody asked again: the order was written down.
            await eventually(lambda: (folder / "data/manifests/tiny/manifest.json").exists())
            done = await store.acquire()
            assert done.bytes_done == done.bytes_total
            assert (await store.models())["tiny"].is_complete
            for layer in range(stores.LAYER_COUNT):
                assert await store.layer(layer) == layer_bytes(layer)
            assert "half.tmp" not in store.files()
            assert blobs.items() <= store.files().items()
            await store.channel.close()
        # Small files and headers are read again, shards that were whole are not.
        again = [seen for seen in hub.seen[before:] if seen.path.startswith("/blob/")]
        whole = sum(size for size in blobs.values() if size >= stores.TENSOR_SIZE_BYTES)
        fetched = sum(seen.stop - seen.start for seen in again if seen.start > 1000)
        assert fetched <= 11 * stores.TENSOR_SIZE_BYTES - whole
