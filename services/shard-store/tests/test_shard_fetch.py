"""One shard from sources that come, go, dawdle and lie."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from prometheus_client import CollectorRegistry

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common.errors import ShoalError
from shoal_common.rpc import RpcServer
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.errors import SourceBroken, SourceBusy, StorageFull, UntrustedFolder
from shoal_shard_store.metrics import Metrics
from shoal_shard_store.partial import PartialShard
from shoal_shard_store.progress import Meter, ShardProgress
from shoal_shard_store.shard_fetch import Piece, ShardFetcher, WantedShard
from shoal_shard_store.sources.base import RemoteFile
from shoal_shard_store.sources.peer import PeerStore
from shoal_shard_store.standing import Standings

from .stores import HastyClock

DATA = bytes(range(256)) * 64
DIGEST = blake3(DATA).hexdigest()
SHARD = WantedShard("m", "layer.0", len(DATA), DIGEST)


class FakeSource:
    """Sends what it has. Errors come one per read, after `cut` bytes each."""

    def __init__(
        self, name: str, data: bytes = DATA, errors: list[Exception] | None = None
    ) -> None:
        self.name = name
        self.data = data
        self.errors = errors or []
        self.cut = 1000
        self.offsets: list[int] = []

    def holds(self, shard: WantedShard) -> bool:
        return True

    async def read(self, shard: WantedShard, offset_bytes: int) -> AsyncGenerator[bytes, None]:
        self.offsets.append(offset_bytes)
        if self.errors:
            yield self.data[offset_bytes : offset_bytes + self.cut]
            raise self.errors.pop(0)
        yield self.data[offset_bytes:]


class Bench:
    """A fetcher on a folder."""

    def __init__(self, folder: Path) -> None:
        self.clock = HastyClock()
        self.blobs = BlobStore(folder / "blobs")
        self.standings = Standings(self.clock)
        self.folder = folder / "downloads"
        self.folder.mkdir()
        metrics = Metrics(CollectorRegistry())
        self.fetcher = ShardFetcher(
            self.blobs, self.folder, self.standings, self.clock, metrics, retry_count_max=3
        )

    async def fetch(self, *sources: FakeSource, shard: WantedShard = SHARD) -> ShardProgress:
        progress = ShardProgress(shard.group, shard.size_bytes, Meter(self.clock))
        ref = await self.fetcher.fetch(shard, sources, progress)
        assert self.blobs.path_of(ref.digest).read_bytes() == DATA
        return progress


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def broken(count: int) -> list[Exception]:
    return [SourceBroken("x", "gone") for _ in range(count)]


async def test_an_interrupted_shard_goes_on_at_another_source(bench: Bench) -> None:
    first, second = FakeSource("a", errors=broken(1)), FakeSource("b")
    await bench.fetch(first, second)
    assert (first.offsets, second.offsets) == ([0], [1000])


async def test_waits_grow_and_end(bench: Bench) -> None:
    source = FakeSource("a", errors=broken(9))
    source.cut = 0
    with pytest.raises(SourceBroken):
        await bench.fetch(source)
    assert len(source.offsets) == 4, "one attempt and three retries"
    assert [round(wait, 1) for wait in bench.clock.waits] == [0.5, 1.0, 2.0]


async def test_progress_starts_the_count_anew(bench: Bench) -> None:
    source = FakeSource("a", errors=broken(9))
    progress = await bench.fetch(source)
    assert source.offsets == [n * 1000 for n in range(10)]
    assert progress.retry_count == 9


async def test_a_busy_source_is_left_alone_while_another_serves(bench: Bench) -> None:
    busy = FakeSource("a", errors=[SourceBusy("a", 429, 60.0)])
    await bench.fetch(busy, FakeSource("b"))
    assert not bench.clock.waits
    assert bench.standings.wait_s("a") > 50


async def test_wrong_bytes_are_put_aside_and_their_sender_comes_last(bench: Bench) -> None:
    liar, honest = FakeSource("a", bytes(len(DATA))), FakeSource("b")
    await bench.fetch(liar, honest)
    assert bench.standings.is_penalised("a")
    assert not bench.standings.is_penalised("b")
    best = bench.standings.best([liar, honest])
    assert best is honest


async def test_of_two_senders_only_the_liar_is_blamed(bench: Bench) -> None:
    liar = FakeSource("a", bytes(len(DATA)), errors=broken(1))
    honest = FakeSource("b")
    await bench.fetch(liar, honest)
    assert not bench.standings.is_penalised("b")


async def test_nothing_but_wrong_bytes_is_an_error(bench: Bench) -> None:
    with pytest.raises(ShoalError, match="its BLAKE3 is another") as raised:
        await bench.fetch(FakeSource("a", bytes(len(DATA))))
    assert raised.value.reason == "SOURCE_LIES"
    names = [path.suffix for path in bench.folder.rglob("*") if path.is_file()]
    assert names.count(".quarantine") == 1
    assert not list(bench.blobs.folder.glob("??/*"))


@pytest.mark.parametrize("data", [DATA + b"more", DATA[:-1]])
async def test_a_wrong_size_is_an_error(bench: Bench, data: bytes) -> None:
    with pytest.raises(ShoalError, match="bytes than were announced"):
        await bench.fetch(FakeSource("a", data))


async def test_penalties_double_and_fade(bench: Bench) -> None:
    assert [bench.standings.penalise("a") for _ in range(3)] == [60.0, 120.0, 240.0]
    await bench.clock.sleep(241)
    assert not bench.standings.is_penalised("a")


async def test_two_calls_share_one_transfer(bench: Bench) -> None:
    source = FakeSource("a")
    await asyncio.gather(*(bench.fetch(source) for _ in range(4)))
    assert source.offsets == [0]


class MeetingSource(FakeSource):
    """Sends only while others do."""

    def __init__(self, name: str, meeting: asyncio.Barrier) -> None:
        super().__init__(name)
        self._meeting = meeting

    async def read(self, shard: WantedShard, offset_bytes: int) -> AsyncGenerator[bytes, None]:
        async with asyncio.timeout(10):
            await self._meeting.wait()
        self.offsets.append(offset_bytes)
        yield self.data[offset_bytes:]


async def test_several_sources_serve_at_once(bench: Bench) -> None:
    meeting = asyncio.Barrier(3)
    sources = [MeetingSource(name, meeting) for name in "abc"]
    file = RemoteFile("f", 1 << 20, "e")
    shards = [
        WantedShard("m", f"layer.{n}", len(DATA), pieces=(Piece(file, n, len(DATA)),))
        for n in range(3)
    ]
    await asyncio.gather(*(bench.fetch(*sources, shard=shard) for shard in shards))
    assert [source.offsets for source in sources] == [[0], [0], [0]]


async def test_a_full_disk_keeps_what_was_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.pwrite, [6000]

    def write(descriptor: int, data: bytes, offset: int) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[: left[0]], offset)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", write)
    with pytest.raises(StorageFull, match="free some space"):
        await bench.fetch(FakeSource("a"))
    left[0] = 1 << 30
    source = FakeSource("a")
    await bench.fetch(source)
    assert source.offsets == [6000]


async def test_a_cancelled_fetch_goes_on_later(bench: Bench) -> None:
    class Stuck(FakeSource):
        async def read(self, shard: WantedShard, offset_bytes: int) -> AsyncGenerator[bytes, None]:
            yield DATA[:2000]
            is_stuck.set()
            await asyncio.Event().wait()

    is_stuck = asyncio.Event()
    task = asyncio.create_task(bench.fetch(Stuck("a")))
    await is_stuck.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    source = FakeSource("b")
    await bench.fetch(source)
    assert source.offsets == [2000]


class SilentStore(pb_grpc.ShardStoreServiceServicer):
    """Begins to answer and says no more."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()

    async def ReadBlob(
        self, request: pb.ReadBlobRequest, context: Any
    ) -> AsyncGenerator[pb.ReadBlobResponse, None]:
        yield pb.ReadBlobResponse(data=DATA[:100])
        self.is_asked.set()
        await asyncio.Event().wait()


async def test_a_store_that_leaves_is_an_error_and_not_a_cancelling() -> None:
    silent = SilentStore()
    server = RpcServer("127.0.0.1:0", token="t", drain_timeout_s=0)
    server.add(pb_grpc.add_ShardStoreServiceServicer_to_server, silent, "s")
    async with server:
        peer = PeerStore(server.address, "t")

        async def read() -> bytes:
            return b"".join([part async for part in peer.read(DIGEST, 0, len(DATA))])

        task = asyncio.create_task(read())
        await silent.is_asked.wait()
        await peer.close()
        with pytest.raises(SourceBroken, match="it left"):
            await task


def test_a_partial_file_is_trusted_up_to_its_mark(tmp_path: Path) -> None:
    part = PartialShard(tmp_path, "k", mark_interval_bytes=1000)
    assert part.open() == 0
    part.append(DATA[:1500])
    part.append(DATA[1500:2000])  # Behind the mark: it may not have reached the disk.
    again = PartialShard(tmp_path, "k")
    assert again.open() == 1500
    assert again.digest() == blake3(DATA[:1500]).hexdigest()
    again.close()
    damaged = bytearray((tmp_path / "k.part").read_bytes())
    damaged[3] ^= 1
    (tmp_path / "k.part").write_bytes(damaged)
    anew = PartialShard(tmp_path, "k")
    assert anew.open() == 0
    anew.close()
    part.close()


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_link_in_place_of_a_partial_file_is_refused(tmp_path: Path, link: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    getattr(tmp_path / "k.part", link)(victim)
    with pytest.raises(UntrustedFolder, match="not a plain file of its own"):
        PartialShard(tmp_path, "k").open()
    assert victim.read_bytes() == b"precious"
