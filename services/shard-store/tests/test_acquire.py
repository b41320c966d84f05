"""Models from a hub that may be slow, busy, broken or dishonest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal_common.errors import ShoalError
from shoal_shard_store.testing import FakeHub, serving_hub

from . import stores
from .stores import HastyClock, layer_bytes, repository, store_of


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with serving_hub(FakeHub(repository())) as hub:
        yield hub


async def test_a_whole_model_arrives_and_can_be_read(hub: FakeHub, tmp_path: Path) -> None:
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        done = await store.acquire()
        assert done.state == pb.DOWNLOAD_STATE_COMPLETE
        assert done.bytes_done == done.bytes_total == 11 * stores.TENSOR_SIZE_BYTES
        assert (done.shards_done, done.shards_total) == (6, 6)
        for layer in range(stores.LAYER_COUNT):
            assert await store.layer(layer) == layer_bytes(layer)
        model = (await store.models())["tiny"]
        assert (model.revision, model.source) == (done.revision, "acme/tiny")
        assert model.is_complete
        assert not store.files("downloads")
    touched = {seen.path.rsplit("/", 1)[-1] for seen in hub.seen}
    assert not touched & {"pytorch_model.bin", "evil.py"}


async def test_code_that_a_repository_wants_run_is_left_out(hub: FakeHub, tmp_path: Path) -> None:
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        await store.acquire()
        config = (await store.manifest())["files"]["config.json"]["digest"]
        assert b"auto_map" not in await store.read(config)


async def test_only_the_layers_that_are_wanted_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        done = await store.acquire(layers=(1, 3))
        assert done.bytes_total == 4 * stores.TENSOR_SIZE_BYTES
        model = (await store.models())["tiny"]
        assert [(s.layer_start, s.layer_stop) for s in model.layers_held] == [(1, 3)]
        assert {model.holds_embed, model.holds_head, model.is_complete} == {False}
        assert model.is_draft
        with pytest.raises(ShoalError, match="shoal models get") as raised:
            await store.manifest()
        assert raised.value.reason == "MODEL_INCOMPLETE"
        before = len(hub.seen)
        # The rest makes it whole, and what is here is not fetched again.
        await store.acquire()
        assert (await store.models())["tiny"].is_complete
        sent = sum(s.stop - s.start for s in hub.seen[before:] if s.path.startswith("/blob/"))
        assert sent < 8 * stores.TENSOR_SIZE_BYTES
        assert await store.layer(2) == layer_bytes(2)


@pytest.mark.parametrize("layers", [(3, 5), (2, 2), (3, 1)])
async def test_layers_beyond_the_model_are_refused(
    hub: FakeHub, tmp_path: Path, layers: tuple[int, int]
) -> None:
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        with pytest.raises(ShoalError, match="are not in 'tiny', which has 4"):
            await store.acquire(layers=layers)


async def test_headers_cost_two_small_ranges_a_file(hub: FakeHub, tmp_path: Path) -> None:
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        await store.acquire(layers=(0, 1))
    ranges = [(s.start, s.stop) for s in hub.seen if s.path.endswith("model-2.safetensors")]
    assert len(ranges) == 2
    assert ranges[0] == (0, 8)
    assert ranges[1][0] == 8
    assert ranges[1][1] < stores.TENSOR_SIZE_BYTES


async def test_the_token_is_shown_to_the_hub_alone(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    async with store_of(tmp_path, hub_endpoint=hub.url, hub_token="hf_secret") as store:
        await store.acquire()
    for seen in hub.seen:
        is_hub = seen.host == hub.url.removeprefix("http://")
        assert seen.token == ("Bearer hf_secret" if is_hub else "")
    assert any(seen.path.startswith("/blob/") for seen in hub.seen)


async def test_a_gated_repository_says_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        with pytest.raises(ShoalError, match="set HF_TOKEN"):
            await store.acquire()


async def test_retry_after_is_waited_for(hub: FakeHub, tmp_path: Path) -> None:
    hub.refuse_count = 2
    clock = HastyClock()
    async with store_of(tmp_path, clock=clock, hub_endpoint=hub.url) as store:
        await store.acquire()
        assert (await store.models())["tiny"].is_complete
    assert clock.waits.count(7.0) == 2


async def test_a_hub_that_stays_busy_is_given_up_on(hub: FakeHub, tmp_path: Path) -> None:
    hub.refuse_count, hub.refuse_status = 1000, 503
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        with pytest.raises(ShoalError, match="answered 503 and asks to wait 7 s"):
            await store.acquire()
        assert (await store.downloads())[0].state == pb.DOWNLOAD_STATE_FAILED


async def test_broken_connections_go_on_where_they_broke(hub: FakeHub, tmp_path: Path) -> None:
    hub.reset_after, hub.reset_count = 3000, 5
    async with store_of(tmp_path, hub_endpoint=hub.url, max_concurrent_downloads=1) as store:
        await store.acquire()
        assert await store.layer(0) == layer_bytes(0)
    starts = [seen.start for seen in hub.seen if seen.path.endswith("model-1.safetensors")]
    assert len(set(starts)) == len(starts), "a byte was asked for twice"


async def test_a_server_that_is_down_is_given_up_on(hub: FakeHub, tmp_path: Path) -> None:
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        await store.acquire(layers=(0, 1))
        hub.cdn_url = "http://localhost:1"  # Nobody listens there.
        with pytest.raises(ShoalError, match="it cannot be reached") as raised:
            await store.acquire()
        assert raised.value.reason == "SOURCE_BROKEN"
        held = (await store.models())["tiny"].layers_held
        assert [(span.layer_start, span.layer_stop) for span in held] == [(0, 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lying_sizes": {"model-1.safetensors": 10_000_000}}, "bytes there, 10000000 were announ"),
        ({"lying_sizes": {"model-1.safetensors": 9000}}, "bytes there, 9000 were announced"),
        ({"lying_sizes": {"config.json": 1 << 30}}, "at most 1048576 are read"),
        ({"ignores_ranges": True}, "does not answer byte ranges"),
        ({"redirect_to": "http://169.254.169.254/latest"}, "that host is not allowed"),
        ({"redirect_to": "file:///etc/passwd"}, "'file' is no scheme that is followed"),
        ({"redirect_to": "http://localhost@evil.example/"}, "that host is not allowed"),
        ({"redirect_to": "http://[oops/"}, "it is no URL"),
    ],
)
async def test_lies_and_traps_are_refused_and_nothing_is_lost(
    hub: FakeHub, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        await store.acquire(layers=(0, 1))
        blobs = store.files()
        for name, value in change.items():
            setattr(hub, name, value)
        with pytest.raises(ShoalError, match=message.replace("(", r"\(")):
            await store.acquire()
        assert store.files().items() >= blobs.items()
        assert (await store.models())["tiny"].layers_held[0].layer_stop == 1


async def test_a_redirect_in_circles_ends(hub: FakeHub, tmp_path: Path) -> None:
    hub.redirect_to = f"{hub.url}/acme/tiny/resolve/main/model-1.safetensors"
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        with pytest.raises(ShoalError, match="more than 5 in a row"):
            await store.acquire()


async def test_a_file_that_changes_meanwhile_is_begun_anew(hub: FakeHub, tmp_path: Path) -> None:
    hub.hold_after = 5000
    url = f"{hub.url}/plain"
    fields = {"url_hosts": ("127.0.0.1",), "max_concurrent_downloads": 1}
    async with store_of(tmp_path, **fields) as store:
        call = store.stub.AcquireModel(stores.request_of(url, model="tiny"), timeout=20)
        await anext(aiter(call))
        await hub.is_held.wait()
        hub.files = repository(salt=1)
        hub.reset_after, hub.reset_count = 1, 1
        hub.go_on.set()
        states = [step.download.state async for step in call]
        assert states[-1] == pb.DOWNLOAD_STATE_COMPLETE
        for layer in range(stores.LAYER_COUNT):
            assert await store.layer(layer) == layer_bytes(layer, salt=1)


async def test_urls_are_read_only_from_hosts_that_are_allowed(hub: FakeHub, tmp_path: Path) -> None:
    async with store_of(tmp_path) as store:
        with pytest.raises(ShoalError, match="SHOAL_SHARD_STORE_URL_HOSTS"):
            await store.acquire(f"{hub.url}/plain", model="tiny")


@pytest.mark.parametrize(
    "repo",
    ["tiny", "a/b/c", "../x", "acme/..", "acme/ti ny", "acme/tiny?x=1", "acme/tiny#", "a%2f/b",
     "@/b", "acme/" + "x" * 92, "acme/x.git", "acme/a--b", "-a/b", "acme/.hidden", "acme/tïny"],
)  # fmt: skip
async def test_names_that_are_no_repository_are_refused(tmp_path: Path, repo: str) -> None:
    async with store_of(tmp_path) as store:
        with pytest.raises(ShoalError, match=r"owner/repo|cannot be fetched"):
            await store.acquire(repo)


@pytest.mark.parametrize(
    "file", ["../x.gguf", "a/../x.gguf", "/x.gguf", "a//x.gguf", "x?.gguf", ".x.gguf", "x y.gguf"]
)
async def test_file_names_that_lead_elsewhere_are_refused(tmp_path: Path, file: str) -> None:
    async with store_of(tmp_path) as store:
        with pytest.raises(ShoalError, match="cannot be fetched"):
            await store.acquire(file=file)


async def test_an_index_that_names_files_elsewhere_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    index = b'{"weight_map": {"model.norm.weight": "../../etc/passwd.safetensors"}}'
    hub.files["model.safetensors.index.json"] = index
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        with pytest.raises(ShoalError, match="something else than its folder's safetensors"):
            await store.acquire()


async def test_cancelling_keeps_what_arrived(hub: FakeHub, tmp_path: Path) -> None:
    hub.hold_after = 5000
    async with store_of(tmp_path, hub_endpoint=hub.url, max_concurrent_downloads=1) as store:
        call = store.stub.AcquireModel(stores.request_of("acme/tiny"), timeout=20)
        await anext(aiter(call))
        await hub.is_held.wait()
        running = (await store.downloads())[0]
        assert running.state == pb.DOWNLOAD_STATE_RUNNING
        assert running.shards[0].source == "hub"
        request = pb.CancelDownloadRequest(request_id="c", model="tiny")
        assert (await store.stub.CancelDownload(request, timeout=5)).was_cancelled
        assert not (await store.stub.CancelDownload(request, timeout=5)).was_cancelled
        hub.go_on.set()
        assert any(name.endswith(".part") for name in store.files("downloads"))
        await store.acquire()
        assert not store.files("downloads")
        assert await store.layer(0) == layer_bytes(0)


async def test_who_leaves_does_not_end_the_download(hub: FakeHub, tmp_path: Path) -> None:
    hub.hold_after = 5000
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        call = store.stub.AcquireModel(stores.request_of("acme/tiny"), timeout=20)
        await anext(aiter(call))
        await hub.is_held.wait()
        call.cancel()
        hub.go_on.set()
        assert (await store.acquire()).state == pb.DOWNLOAD_STATE_COMPLETE


async def test_two_different_wishes_for_one_model_conflict(hub: FakeHub, tmp_path: Path) -> None:
    hub.hold_after = 5000
    async with store_of(tmp_path, hub_endpoint=hub.url) as store:
        call = store.stub.AcquireModel(stores.request_of("acme/tiny"), timeout=20)
        await anext(aiter(call))
        await hub.is_held.wait()
        with pytest.raises(ShoalError, match="wait for it or cancel it first"):
            await store.acquire(layers=(0, 1))
        hub.go_on.set()
        assert (await store.acquire()).state == pb.DOWNLOAD_STATE_COMPLETE


async def test_an_offline_store_asks_no_hub(hub: FakeHub, tmp_path: Path) -> None:
    async with store_of(tmp_path, hub_endpoint=hub.url, offline=True) as store:
        with pytest.raises(ShoalError, match="this store is offline"):
            await store.acquire()
    assert not hub.seen
