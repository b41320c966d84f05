"""What is complete is announced: at once when it comes, and again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shoal.shard_store.v1 import announcement_pb2
from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common.bus import Bus
from shoal_common.errors import Unavailable
from shoal_common.rpc import RpcChannel
from shoal_common.settings import FleetSettings
from shoal_common.testing import FakeClock, MemoryBus
from shoal_shard_store.announcer import subject_of
from shoal_shard_store.app import serving
from shoal_shard_store.settings import Settings

INTERVAL_S = 2.0


class Store:
    """A shard-store on a clock by hand, and what is heard of it."""

    def __init__(self, stub: pb_grpc.ShardStoreServiceStub, clock: FakeClock) -> None:
        self.stub, self.clock = stub, clock
        self.heard: asyncio.Queue[tuple[str, announcement_pb2.ModelAnnouncement]] = asyncio.Queue()

    async def on_announcement(self, subject: str, payload: bytes) -> None:
        message = announcement_pb2.ModelAnnouncement.FromString(payload)
        self.heard.put_nowait((subject, message))

    async def imported(self, folder: Path) -> str:
        request = pb.ImportModelRequest(request_id="r", path=str(folder))
        steps = [step async for step in self.stub.ImportModel(request, timeout=20)]
        revision: str = steps[-1].revision
        return revision

    async def next(self) -> tuple[str, announcement_pb2.ModelAnnouncement]:
        async with asyncio.timeout(10):
            return await self.heard.get()

    async def next_after(self, delay_s: float) -> tuple[str, announcement_pb2.ModelAnnouncement]:
        """Lets time pass until something is heard: the shelf is looked at in a thread."""
        async with asyncio.timeout(10):
            while self.heard.empty():
                await self.clock.advance(delay_s)
        return self.heard.get_nowait()


@asynccontextmanager
async def store_of(
    folder: Path, connect: Callable[[MemoryBus], Awaitable[Bus]]
) -> AsyncIterator[Store]:
    clock, bus = FakeClock(), MemoryBus()
    settings = Settings(
        import_roots=(folder,),
        side_address="",
        announce_interval_s=INTERVAL_S,
        fleet=FleetSettings(data_dir=folder / "data"),
    )
    async with serving(settings, lambda: connect(bus), clock) as address:
        channel = RpcChannel(address)
        store = Store(pb_grpc.ShardStoreServiceStub(channel.channel), clock)
        await bus.subscribe("shoal.model.*.announce", store.on_announcement)
        yield store
        await channel.close()


async def at_once(bus: MemoryBus) -> Bus:
    return bus


@pytest.mark.parametrize(
    ("model", "part"),
    [("heavy-weight_2", "heavy-weight_2"), ("v1.5", None), ("a b", None), ("ä", None)],
)
def test_subjects_are_one_part_whatever_the_name(model: str, part: str | None) -> None:
    found = subject_of(model).split(".")
    assert (found[:2], found[-1], len(found)) == (["shoal", "model"], "announce", 4)
    assert found[2].isascii()
    assert " " not in found[2]
    assert part is None or found[2] == part


async def test_a_model_is_announced_at_once_and_again(tmp_path: Path, model_folder: Path) -> None:
    async with store_of(tmp_path, at_once) as store:
        revision = await store.imported(model_folder)
        subject, said = await store.next()
        assert subject == "shoal.model.tiny.announce"
        assert (said.model, said.revision, said.layer_count) == ("tiny", revision, 2)
        assert (said.context_length, said.weight_bytes, said.parameter_count) == (128, 448, 448)
        _, again = await store.next_after(INTERVAL_S)
        assert again == said


async def test_a_model_with_a_missing_blob_is_not_announced(
    tmp_path: Path, model_folder: Path
) -> None:
    async with store_of(tmp_path, at_once) as store:
        await store.imported(model_folder)
        await store.next()
        for blob in (tmp_path / "data" / "blobs").glob("??/*"):
            blob.unlink()
        await store.imported(await asyncio.to_thread(_other, model_folder))
        heard = [(await store.next_after(INTERVAL_S))[1].model for _ in range(3)]
        assert set(heard) == {"other"}


async def test_a_bus_that_comes_late_is_waited_for(tmp_path: Path, model_folder: Path) -> None:
    attempts = 0

    async def late(bus: MemoryBus) -> Bus:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise Unavailable("NATS is away")
        return bus

    async with store_of(tmp_path, late) as store:
        await store.imported(model_folder)
        _, said = await store.next_after(1.0)
        assert (said.model, attempts) == ("tiny", 3)


def _other(folder: Path) -> Path:
    """Another model, with other blobs of its own."""
    other = folder.with_name("other")
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "config.json").write_text((folder / "config.json").read_text() + " ")
    return other
