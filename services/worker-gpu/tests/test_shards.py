"""Fetching layer ranges from a real shard-store on a free port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from safetensors import safe_open

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common.errors import InvalidRequest, ShoalError, Unavailable
from shoal_common.rpc import RpcServer
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import LayerRange
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.catalog import Catalog
from shoal_shard_store.importer import Importer
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.rpc import ShardStoreRpc
from shoal_worker_gpu.shards import (
    DamagedDownload,
    LocalModel,
    SegmentSource,
    ShardClient,
    segments_needed,
)

_MODEL = Path(__file__).parents[3] / "models" / "drafter"
_PIECE_SIZE_BYTES = 50_000


class NoWait:
    """A clock whose sleeps only let others run."""

    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 0.0

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(0)


class WatchedStore(ShardStoreRpc):
    """The real service, with small pieces, a record of what was asked, and faults on demand."""

    def __init__(self, blobs: BlobStore, catalog: Catalog, importer: Importer) -> None:
        super().__init__(blobs, catalog, importer, (), Metrics(CollectorRegistry()))
        self.reads: list[tuple[str, int, int]] = []
        self.bytes_sent = 0
        self.fails_after_bytes: int | None = None
        self.stops_after_bytes: int | None = None
        self.has_stopped = asyncio.Event()
        self.is_flipping = False

    async def ReadBlob(
        self, request: pb.ReadBlobRequest, context: Any
    ) -> AsyncIterator[pb.ReadBlobResponse]:
        self.reads.append((request.digest, request.offset_bytes, request.length_bytes))
        async for message in super().ReadBlob(request, context):
            for start in range(0, len(message.data), _PIECE_SIZE_BYTES):
                await self._misbehave()
                data = message.data[start : start + _PIECE_SIZE_BYTES]
                self.bytes_sent += len(data)
                if self.is_flipping:
                    data = bytes([data[0] ^ 1]) + data[1:]
                yield pb.ReadBlobResponse(offset_bytes=message.offset_bytes + start, data=data)

    async def _misbehave(self) -> None:
        if self.fails_after_bytes is not None and self.bytes_sent >= self.fails_after_bytes:
            self.fails_after_bytes = None
            raise Unavailable("the shard-store is restarting")
        if self.stops_after_bytes is not None and self.bytes_sent >= self.stops_after_bytes:
            self.has_stopped.set()
            await asyncio.Event().wait()


class Fleet:
    """A store that holds the demo model, and clients of it."""

    def __init__(self, folder: Path, store: WatchedStore, address: str) -> None:
        self.folder = folder
        self.store = store
        self.blob_dir = folder / "store" / "blobs"
        self._address = address
        self._clients: list[ShardClient] = []

    def client(self, shared_blob_dir: Path | None = None) -> ShardClient:
        cache_dir = self.folder / "cache"
        self._clients.append(
            ShardClient(self._address, "", cache_dir, shared_blob_dir, clock=NoWait())
        )
        return self._clients[-1]

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    blobs = BlobStore(tmp_path / "store" / "blobs")
    catalog = Catalog(tmp_path / "store" / "manifests")
    importer = Importer(blobs, catalog, shard_size_bytes=400_000)
    async for _ in importer.run(_MODEL, ""):
        pass
    store = WatchedStore(blobs, catalog, importer)
    server = RpcServer("127.0.0.1:0", drain_timeout_s=0.2)
    server.add(pb_grpc.add_ShardStoreServiceServicer_to_server, store)
    fleet = Fleet(tmp_path, store, await server.start())
    try:
        yield fleet
    finally:
        await fleet.close()
        await server.stop()


def _check_tensors(source: SegmentSource) -> None:
    with safe_open(_MODEL / "model.safetensors", framework="pt") as file:
        for name in source.names():
            expected = file.get_tensor(name)
            found = source.read(name)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert torch.equal(found.view(torch.uint8), expected.view(torch.uint8))


def _names(model: LocalModel) -> set[str]:
    return {name.split(".")[2] if ".layers." in name else name for name in model.source.names()}


async def test_tensors_are_bitwise_those_of_the_checkpoint(fleet: Fleet) -> None:
    model = await fleet.client().fetch("drafter")
    with safe_open(_MODEL / "model.safetensors", framework="pt") as file:
        assert set(model.source.names()) == set(file.keys())
    _check_tensors(model.source)
    config = (model.folder / "config.json").read_bytes()
    assert config == (_MODEL / "config.json").read_bytes()


async def test_no_byte_of_other_layers_is_asked_for(fleet: Fleet) -> None:
    model = await fleet.client().fetch("drafter", (0, 1))
    assert _names(model) == {"model.embed_tokens.weight", "0"}
    files = {ref["digest"]: ref["size_bytes"] for ref in model.manifest["files"].values()}
    segments = segments_needed(model.manifest, 0, 1)
    expected = [(s.shard_digest, s.offset_bytes, s.size_bytes) for s in segments]
    expected += [(digest, 0, size_bytes) for digest, size_bytes in files.items()]
    assert sorted(fleet.store.reads) == sorted(expected)
    assert fleet.store.bytes_sent == sum(size_bytes for _, _, size_bytes in expected)


async def test_last_stage_of_a_tied_model_gets_the_embedding(fleet: Fleet) -> None:
    model = await fleet.client().fetch("drafter", (2, 3))
    assert _names(model) == {"model.embed_tokens.weight", "model.norm.weight", "2"}
    assert _names(await fleet.client().fetch("drafter", (1, 2))) == {"1"}


async def test_engine_loads_a_stage_from_the_index_alone(fleet: Fleet) -> None:
    model = await fleet.client().fetch("drafter", (1, 3))
    source = SegmentSource.open(model.index)
    layers, options = LayerRange(1, 3), StageOptions(kv_blocks=4)
    stage = load_stage(model.folder, layers, options, source)
    assert stage.weight_bytes == load_stage(_MODEL, layers, options).weight_bytes


async def test_second_fetch_reads_nothing(fleet: Fleet) -> None:
    await fleet.client().fetch("drafter", (0, 2))
    before = len(fleet.store.reads)
    _check_tensors((await fleet.client().fetch("drafter", (0, 2))).source)
    assert len(fleet.store.reads) == before


async def test_progress_ends_at_the_total(fleet: Fleet) -> None:
    seen: list[tuple[int, int]] = []
    await fleet.client().fetch(
        "drafter", on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


async def test_store_that_fails_midway_is_asked_for_the_rest(fleet: Fleet) -> None:
    fleet.store.fails_after_bytes = 250_000
    _check_tensors((await fleet.client().fetch("drafter")).source)
    total = sum(path.stat().st_size for path in fleet.blob_dir.rglob("*") if path.is_file())
    assert fleet.store.bytes_sent == total


async def test_killed_download_is_resumed(fleet: Fleet) -> None:
    fleet.store.stops_after_bytes = 250_000
    has_begun = asyncio.Event()
    fetching = fleet.client().fetch("drafter", on_progress=lambda done, total: has_begun.set())
    killed = asyncio.create_task(fetching)
    await fleet.store.has_stopped.wait()
    await has_begun.wait()
    unfinished = fleet.folder / "cache" / "segments"
    killed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killed
    (partial,) = unfinished.rglob("*.tmp")
    done = partial.stat().st_size
    assert done > 0
    fleet.store.stops_after_bytes = None
    fleet.store.reads.clear()
    model = await fleet.client().fetch("drafter")
    _check_tensors(model.source)
    first = next(s for s in segments_needed(model.manifest, 0, 3) if s.digest == partial.stem)
    assert fleet.store.reads[0] == (
        first.shard_digest,
        first.offset_bytes + done,
        first.size_bytes - done,
    )
    assert not partial.exists()


async def test_two_clients_download_each_segment_once(fleet: Fleet) -> None:
    models = await asyncio.gather(*(fleet.client().fetch("drafter") for _ in range(2)))
    for model in models:
        _check_tensors(model.source)
    assert len(fleet.store.reads) == len(set(fleet.store.reads))


async def test_damaged_cached_segment_is_fetched_again(fleet: Fleet) -> None:
    model = await fleet.client().fetch("drafter")
    digest = segments_needed(model.manifest, 0, 3)[0].digest
    path = fleet.folder / "cache" / "segments" / digest[:2] / digest
    path.write_bytes(b"x" * path.stat().st_size)
    _check_tensors((await fleet.client().fetch("drafter")).source)


async def test_bytes_damaged_on_the_way_are_never_kept(fleet: Fleet) -> None:
    fleet.store.is_flipping = True
    with pytest.raises(DamagedDownload, match="arrived damaged twice"):
        await fleet.client().fetch("drafter")
    kept = [path for path in (fleet.folder / "cache").rglob("*") if path.is_file()]
    assert [path.stat().st_size for path in kept] == [0]


async def test_shared_blobs_are_read_where_they_lie(fleet: Fleet) -> None:
    model = await fleet.client(fleet.blob_dir).fetch("drafter")
    _check_tensors(model.source)
    files = {ref["digest"] for ref in model.manifest["files"].values()}
    assert {digest for digest, _, _ in fleet.store.reads} == files
    places = json.loads(model.index.read_bytes()).values()
    assert all(Path(place["path"]).is_relative_to(fleet.blob_dir) for place in places)


async def test_corrupt_shared_shard_is_quarantined_by_the_store(fleet: Fleet) -> None:
    model = await fleet.client().fetch("drafter", (0, 1))
    digest = segments_needed(model.manifest, 2, 3)[-1].shard_digest
    path = fleet.blob_dir / digest[:2] / digest
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ShoalError, match="import the model again"):
        await fleet.client(fleet.blob_dir).fetch("drafter", (2, 3))
    assert path.with_name(f"{digest}.quarantine").exists()


async def test_layers_that_are_not_there_are_refused(fleet: Fleet) -> None:
    with pytest.raises(InvalidRequest, match="layers 2:4 are not in 'drafter', which has 3"):
        await fleet.client().fetch("drafter", (2, 4))


async def test_unknown_model_is_an_error(fleet: Fleet) -> None:
    with pytest.raises(ShoalError, match="'other' does not exist; known: drafter"):
        await fleet.client().fetch("other")
