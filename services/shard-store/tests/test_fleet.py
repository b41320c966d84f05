"""Several stores: who has what, who may be believed, what is fetched when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from shoal.shard_store.v1 import announcement_pb2, beat_pb2
from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal_common.bus import Bus
from shoal_common.errors import ShoalError
from shoal_common.testing import MemoryBus
from shoal_common.testing.waiting import eventually
from shoal_shard_store.prune import HeldGroup, PruneRules, decide
from shoal_shard_store.testing import FakeHub, serving_hub

from . import stores
from .stores import Store, layer_bytes, repository, store_of


class Fleet:
    """Stores on one bus, and what is announced there."""

    def __init__(self, folder: Path, hub: FakeHub, stack: AsyncExitStack) -> None:
        self._folder, self._hub, self._stack = folder, hub, stack
        self.bus = MemoryBus()
        self.announced: dict[str, announcement_pb2.ModelAnnouncement] = {}
        self.beats: dict[str, beat_pb2.StoreBeat] = {}

    async def listen(self) -> None:
        async def on_model(subject: str, payload: bytes) -> None:
            said = announcement_pb2.ModelAnnouncement.FromString(payload)
            self.announced[said.store_id] = said

        async def on_store(subject: str, payload: bytes) -> None:
            beat = beat_pb2.StoreBeat.FromString(payload)
            self.beats[beat.locator.removeprefix("grpc:")] = beat

        await self.bus.subscribe("shoal.model.*.announce", on_model)
        await self.bus.subscribe("shoal.store.*.beat", on_store)

    async def store(self, name: str, **fields: Any) -> Store:
        async def connect() -> Bus:
            return self.bus

        clock = fields.pop("clock", None)
        fields = {"hub_endpoint": self._hub.url, "announce_interval_s": 0.05, **fields}
        opened = store_of(self._folder / name, connect, clock, **fields)
        return await self._stack.enter_async_context(opened)

    async def until_whole(self, store: Store) -> None:
        """Until a store's beat names a revision, so that it knows every digest."""
        await eventually(
            lambda: all(
                store.address in self.beats and holding.revision
                for holding in self.beats[store.address].holdings
            )
        )

    async def until_known(self, store: Store, model: str = "tiny") -> None:
        """Until a store's beat says that it has something of the model."""
        await eventually(
            lambda: any(
                holding.model == model
                for beat in [self.beats.get(store.address)]
                if beat is not None
                for holding in beat.holdings
            )
        )


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with serving_hub(FakeHub(repository())) as hub:
        yield hub


@pytest.fixture
async def fleet(tmp_path: Path, hub: FakeHub) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        fleet = Fleet(tmp_path, hub, stack)
        await fleet.listen()
        yield fleet


async def test_a_model_comes_from_another_store_without_the_hub(fleet: Fleet, hub: FakeHub) -> None:
    first, second = await fleet.store("a"), await fleet.store("b")
    done = await first.acquire()
    await fleet.until_known(first)
    hub.seen.clear()
    copied = await second.acquire("", model="tiny")
    assert copied.revision == done.revision
    assert (await second.models())["tiny"].is_complete
    assert await second.layer(3) == layer_bytes(3)
    assert not hub.seen


async def test_stores_that_fetched_halves_end_with_one_whole_manifest(fleet: Fleet) -> None:
    first, second = await fleet.store("a"), await fleet.store("b")
    await first.acquire(layers=(0, 2))
    await second.acquire(layers=(2, 4))
    await fleet.until_whole(first)
    await fleet.until_whole(second)
    assert (await first.models())["tiny"].revision == (await second.models())["tiny"].revision
    # A worker may ask either of them for any layer.
    for store in (first, second):
        for layer in range(stores.LAYER_COUNT):
            assert await store.layer(layer) == layer_bytes(layer)
    await eventually(lambda: len(fleet.announced) == 2)
    said = next(iter(fleet.announced.values()))
    size = stores.TENSOR_SIZE_BYTES
    assert (said.weight_bytes, said.layer_bytes) == (11 * size, 2 * size)
    assert (said.embed_bytes, said.head_bytes) == (size, 2 * size)
    assert (said.width, said.kv_width, said.ties_embeddings) == (64, 64, False)


async def test_shares_divide_a_model_among_the_stores(fleet: Fleet, hub: FakeHub) -> None:
    made = [await fleet.store(name) for name in "abc"]
    await eventually(lambda: len(fleet.beats) == 3)
    for store in made:
        await store.acquire(is_fair_share=True)
    held = [set(layers_of((await store.models())["tiny"])) for store in made]
    assert sorted(layer for each in held for layer in each) == list(range(stores.LAYER_COUNT))
    sent = sum(s.stop - s.start for s in hub.seen if s.path.startswith("/blob/") and s.start > 8)
    assert sent == 11 * stores.TENSOR_SIZE_BYTES
    for store in made:
        await fleet.until_whole(store)


def layers_of(model: pb.StoredModel) -> list[int]:
    return [n for span in model.layers_held for n in range(span.layer_start, span.layer_stop)]


async def test_what_fewest_stores_hold_comes_first(fleet: Fleet) -> None:
    first, second = await fleet.store("a"), await fleet.store("b")
    await first.acquire()
    await fleet.until_known(first)
    await second.acquire("", model="tiny", layers=(0, 3))
    await fleet.until_known(second)
    third = await fleet.store("c", offline=True, max_concurrent_downloads=1)
    await eventually(lambda: third.address in fleet.beats)
    await third.acquire("", model="tiny")
    blobs = third.data_dir / "blobs"
    document = await third.manifest()
    times = {
        group: (blobs / digest[:2] / digest).stat().st_mtime_ns
        for group in ("layer.0", "layer.1", "layer.2", "layer.3", "head")
        for digest in stores.digests_of(document, group)
    }
    assert max(times["layer.3"], times["head"]) < min(times[f"layer.{n}"] for n in range(3))


async def test_bytes_that_are_wrong_are_quarantined_and_come_from_elsewhere(
    fleet: Fleet, hub: FakeHub
) -> None:
    first = await fleet.store("a")
    await first.acquire()
    await fleet.until_known(first)
    hub.damaged = True
    # The hub's bytes are others now; the digests that the first store knows say so.
    second = await fleet.store("b")
    await eventually(lambda: second.address in fleet.beats)
    await second.acquire()
    for layer in range(stores.LAYER_COUNT):
        assert await second.layer(layer) == layer_bytes(layer)


async def test_a_hub_with_wrong_bytes_alone_is_refused(fleet: Fleet, hub: FakeHub) -> None:
    first = await fleet.store("a")
    await first.acquire()
    await fleet.until_known(first)
    digests = stores.digests_of(await first.manifest(), "layer.3")
    for digest in digests:
        (first.data_dir / "blobs" / digest[:2] / digest).unlink()
    hub.damaged = True
    second = await fleet.store("b")
    await eventually(lambda: second.address in fleet.beats)
    with pytest.raises(ShoalError, match="its BLAKE3 is another"):
        await second.acquire()
    quarantined = [name for name in second.files("downloads") if name.endswith(".quarantine")]
    assert quarantined
    held = layers_of((await second.models())["tiny"])
    assert 3 not in held


async def test_a_store_that_lies_about_its_manifest_is_not_believed(
    fleet: Fleet, hub: FakeHub
) -> None:
    first = await fleet.store("a")
    await first.acquire()
    await fleet.until_known(first)
    manifest = first.data_dir / "manifests" / "tiny" / "manifest.json"
    for wrong in (b"[]", b'{"format":1}', manifest.read_bytes().replace(b'"head"', b'"tail"')):
        manifest.write_bytes(wrong)
        second = await fleet.store(f"b{len(wrong)}", offline=True, neighbours=(first.address,))
        with pytest.raises(ShoalError, match="no shard-store that is known holds"):
            await second.acquire("", model="tiny")


async def test_a_worker_gets_a_blob_that_only_another_store_holds(
    fleet: Fleet, hub: FakeHub
) -> None:
    first, second = await fleet.store("a"), await fleet.store("b")
    await first.acquire()
    await fleet.until_known(first)
    await second.acquire("", model="tiny", layers=(0, 1))
    digest = stores.digests_of(await second.manifest(), "layer.2")[0]
    with pytest.raises(ShoalError, match="there is no blob"):
        await second.read(digest, is_local_only=True)
    reads = await asyncio.gather(*(second.read(digest) for _ in range(5)))
    assert set(reads) == {layer_bytes(2)}
    assert digest in second.files()
    with pytest.raises(ShoalError, match="there is no blob"):
        await second.read("0" * 64)


async def test_what_a_store_that_left_held_has_no_source(fleet: Fleet) -> None:
    second = await fleet.store("b")
    async with AsyncExitStack() as stack:
        leaving = Fleet(fleet._folder, fleet._hub, stack)
        leaving.bus = fleet.bus
        first = await leaving.store("a")
        await first.acquire()
        await fleet.until_known(first)
        await second.acquire("", model="tiny", layers=(0, 1))
        digest = stores.digests_of(await second.manifest(), "layer.2")[0]
    with pytest.raises(ShoalError, match=r"no shard-store that is known holds layer\.2"):
        await second.read(digest)


async def test_what_enough_others_hold_is_pruned_and_comes_back(fleet: Fleet) -> None:
    made = [await fleet.store(name) for name in "abc"]
    await made[0].acquire()
    await fleet.until_known(made[0])
    for store in made[1:]:
        await store.acquire("", model="tiny")
        await fleet.until_known(store)
    await eventually(lambda: len(fleet.beats) == 3)
    pin = pb.PinModelRequest(request_id="p", model="tiny", groups=["layer.0"])
    for store in made:
        await store.stub.PinModel(pin, timeout=5)
    answers = await asyncio.gather(
        *(store.stub.Prune(pb.PruneRequest(request_id="q"), timeout=10) for store in made)
    )
    gone = [{each.group for each in answer.groups if not each.kept_because} for answer in answers]
    # Three have all of it and two must keep it, so each group but the pinned one goes once.
    assert sorted(group for each in gone for group in each) == sorted(
        {"embed", "layer.1", "layer.2", "layer.3", "head"}
    )
    for store, groups in zip(made, gone, strict=True):
        assert (await store.models())["tiny"].is_complete == (not groups)
        for layer in range(stores.LAYER_COUNT):
            assert await store.layer(layer) == layer_bytes(layer)


async def test_a_full_store_makes_room_with_what_others_hold(
    fleet: Fleet, hub: FakeHub, tmp_path: Path
) -> None:
    for name in "ab":
        name_store(tmp_path / name, name)
        store = await fleet.store(name)
        await store.acquire()
        await fleet.until_known(store)
    name_store(tmp_path / "c", node_that_keeps_nothing())
    third = await fleet.store("c", max_disk_mb=1, prune_min_replicas=1)
    await eventually(lambda: third.address in fleet.beats)
    await third.acquire("", model="tiny")
    await third.stub.PinModel(
        pb.PinModelRequest(request_id="p", model="tiny", groups=["head"]), timeout=5
    )
    hub.files = repository(salt=3)
    (third.data_dir / "blobs" / "filler").write_bytes(bytes((1 << 20) - 70_000))
    await third.acquire(model="other")
    models = await third.models()
    assert models["other"].is_complete
    assert not models["tiny"].is_complete
    assert models["tiny"].holds_head
    # Nothing of the other model is anywhere else, and the first was pruned a moment ago.
    hub.files = repository(salt=4)
    with pytest.raises(ShoalError, match="SHOAL_SHARD_STORE_MAX_DISK_MB") as raised:
        await third.acquire(model="third")
    assert raised.value.reason == "QUOTA_EXCEEDED"
    assert (await third.models())["other"].is_complete


def name_store(data_dir: Path, node_id: str) -> None:
    data_dir.mkdir()
    (data_dir / "shard_store_node_id").write_text(node_id)


def node_that_keeps_nothing() -> str:
    """A node that may prune every group that `a` and `b` hold, too."""
    groups = ["embed", *(f"layer.{n}" for n in range(stores.LAYER_COUNT)), "head"]
    held = [HeldGroup("tiny", group, 1, frozenset("ab")) for group in groups]
    rules = PruneRules(1, 300.0, 3)
    return next(
        f"c{i}"
        for i in range(100_000)
        if not any(verdict.kept_because for verdict in decide(held, f"c{i}", rules, 0))
    )
