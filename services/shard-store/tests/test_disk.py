"""Room on the disk: the owner's limit, and a disk that is really full."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal_common.errors import ShoalError
from shoal_common.rpc import translated
from shoal_shard_store.testing import FakeHub, serving_hub

from .stores import ALL_NAMES, LAYER_COUNT, layer_bytes, repository, safetensors, store_of


async def test_the_limit_refuses_a_model_before_it_is_fetched(tmp_path: Path) -> None:
    hub = FakeHub(repository())
    async with serving_hub(hub), store_of(tmp_path, hub_endpoint=hub.url, max_disk_mb=1) as store:
        filler = tmp_path / "blobs" / "filler"
        filler.write_bytes(bytes((1 << 20) - 20_000))
        with pytest.raises(ShoalError, match="of the allowed 1048576 are in use") as raised:
            await store.acquire()
        assert raised.value.reason == "QUOTA_EXCEEDED"
        assert not await store.models()
        await store.acquire(layers=(1, 2))  # Two tensors fit.
        filler.unlink()
        await store.acquire()
        assert (await store.models())["tiny"].is_complete


async def test_the_limit_counts_for_folders_too(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    files = repository()
    (folder / "config.json").write_bytes(files["config.json"].replace(b"auto_map", b"none"))
    (folder / "tokenizer.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(safetensors(ALL_NAMES))
    data = tmp_path / "data"
    async with store_of(data, max_disk_mb=1, import_roots=(tmp_path,)) as store:
        (data / "blobs" / "filler").write_bytes(bytes((1 << 20) - 20_000))
        request = pb.ImportModelRequest(request_id="r", path=str(folder))
        with pytest.raises(ShoalError, match="remove a model"), translated():
            async for _ in store.stub.ImportModel(request, timeout=10):
                pass
        assert not await store.models()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(file: Path) -> None:
    """Somebody else's file takes what is left."""
    with file.open("wb", buffering=0) as writer:
        while True:
            writer.write(bytes(4096))


async def test_a_disk_that_fills_up_loses_nothing(small_disk: Path) -> None:
    hub = FakeHub(repository(), hold_after=5000)
    async with (
        serving_hub(hub),
        store_of(small_disk / "data", hub_endpoint=hub.url, max_concurrent_downloads=1) as store,
    ):
        hub.go_on.set()
        await store.acquire(layers=(0, 1), model="first")
        hub.go_on.clear()
        task = asyncio.create_task(store.acquire(model="second"))
        await hub.is_held.wait()
        with pytest.raises(OSError, match="space"):
            fill(small_disk / "filler")
        hub.go_on.set()
        with pytest.raises(ShoalError, match="free some space") as raised:
            await task
        assert raised.value.reason == "STORAGE_FULL"
        held = (await store.models())["first"].layers_held
        assert [(span.layer_start, span.layer_stop) for span in held] == [(0, 1)]
        (small_disk / "filler").unlink()
        await store.acquire(model="second")
        for layer in range(LAYER_COUNT):
            assert await store.layer(layer, "second") == layer_bytes(layer)
