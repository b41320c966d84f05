"""`shoal models` against a shard-store that runs, and what a person sees of downloads."""

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from rich.console import Console
from typer.testing import CliRunner

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_cli.download_view import (
    DownloadView,
    downloads_table,
    eta_text,
    pruned_table,
    size_text,
    stored_table,
)
from shoal_cli.errors import NotRunning
from shoal_cli.main import app
from shoal_cli.model_store import Wanted
from shoal_common.errors import UnknownModel
from shoal_common.rpc import RpcServer


class FakeStore(pb_grpc.ShardStoreServiceServicer):
    """Answers like a shard-store and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    async def AcquireModel(self, request, context):  # noqa: ANN001, ANN201
        self.asked.append(request)
        for done in (0, 50, 100):
            yield pb.AcquireModelResponse(download=running(done))
        done = running(100)
        done.state = pb.DOWNLOAD_STATE_COMPLETE
        done.revision = "" if request.HasField("layers") else "r1"
        yield pb.AcquireModelResponse(download=done)

    async def ListModels(self, request, context):  # noqa: ANN001, ANN201
        model = pb.StoredModel(model="tiny", layer_count=4, size_bytes=2000, held_bytes=1000)
        model.layers_held.add(layer_start=0, layer_stop=2)
        return pb.ListModelsResponse(models=[model])

    async def ListDownloads(self, request, context):  # noqa: ANN001, ANN201
        return pb.ListDownloadsResponse(downloads=[running(30)])

    async def CancelDownload(self, request, context):  # noqa: ANN001, ANN201
        return pb.CancelDownloadResponse(was_cancelled=request.model == "tiny")

    async def PinModel(self, request, context):  # noqa: ANN001, ANN201
        self.asked.append(request)
        return pb.PinModelResponse()

    async def UnpinModel(self, request, context):  # noqa: ANN001, ANN201
        self.asked.append(request)
        return pb.UnpinModelResponse()

    async def RemoveModel(self, request, context):  # noqa: ANN001, ANN201
        if request.model != "tiny":
            raise UnknownModel(request.model, ("tiny",))
        self.asked.append(request)
        return pb.RemoveModelResponse(freed_bytes=1_500_000)

    async def Prune(self, request, context):  # noqa: ANN001, ANN201
        group = pb.PrunedGroup(model="tiny", group="layer.1", kept_because="pinned")
        return pb.PruneResponse(groups=[group])


def running(done: int) -> pb.Download:
    download = pb.Download(
        model="tiny",
        repo="acme/tiny",
        state=pb.DOWNLOAD_STATE_RUNNING,
        bytes_done=done * 1_000_000,
        bytes_total=100_000_000,
        bytes_per_s=10_000_000,
    )
    download.shards.add(name="layer.0", source="hub", bytes_total=5, retry_count=2)
    download.shards.add(name="layer.1", source="peer 10.0.0.7:1", bytes_total=5)
    return download


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FakeStore]:
    """A store on a loop of its own, found by the ready file of the data folder."""
    fake, is_up, loop = FakeStore(), Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        server = RpcServer("127.0.0.1:0", token="t")
        server.add(pb_grpc.add_ShardStoreServiceServicer_to_server, fake, "s")
        async with server:
            (tmp_path / "run").mkdir()
            ready = tmp_path / "run" / "shard-store.ready.json"
            ready.write_text(json.dumps({"grpc": server.address}))
            (tmp_path / "fleet_token").write_text("t\n")
            is_up.set()
            await stop.wait()

    thread = Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert is_up.wait(10)
    yield fake
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


def shoal(tmp_path: Path, *argv: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["models", *argv, "--data-dir", str(tmp_path)])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_get_asks_for_what_was_typed_and_shows_the_way(tmp_path: Path, store: FakeStore) -> None:
    output = shoal(tmp_path, "get", "acme/tiny", "--layers", "0:2", "--revision", "v1")
    (asked,) = store.asked
    assert isinstance(asked, pb.AcquireModelRequest)
    assert (asked.repo, asked.model, asked.repo_revision) == ("acme/tiny", "tiny", "v1")
    assert (asked.layers.layer_start, asked.layers.layer_stop) == (0, 2)
    line = "tiny 0:2: 50 %, 50.0 MB of 100.0 MB, 10.0 MB/s, 0:05 left, hub, peer 10.0.0.7:1"
    assert line in " ".join(output.split())
    assert "still nowhere in the fleet" in output


def test_the_other_commands_reach_the_store(tmp_path: Path, store: FakeStore) -> None:
    assert "0:2" in shoal(tmp_path, "stored")
    assert "layer.1" in shoal(tmp_path, "downloads")
    assert "stopped" in shoal(tmp_path, "cancel", "tiny")
    assert "nothing of other" in shoal(tmp_path, "cancel", "other", exit_code=1)
    shoal(tmp_path, "pin", "tiny", "--part", "layer.0", "--part", "head")
    shoal(tmp_path, "unpin", "tiny")
    assert "1.5 MB freed" in shoal(tmp_path, "rm", "tiny", "--layers", "1:3")
    pinned, unpinned, removed = store.asked
    assert isinstance(pinned, pb.PinModelRequest)
    assert list(pinned.groups) == ["layer.0", "head"]
    assert isinstance(unpinned, pb.UnpinModelRequest)
    assert not unpinned.groups
    assert isinstance(removed, pb.RemoveModelRequest)
    assert removed.layers.layer_stop == 3
    assert "stays: pinned" in shoal(tmp_path, "prune", "--dry-run")


def test_errors_of_the_store_come_through(tmp_path: Path, store: FakeStore) -> None:
    result = CliRunner().invoke(app, ["models", "rm", "none", "--data-dir", str(tmp_path)])
    assert isinstance(result.exception, UnknownModel)


def test_without_a_fleet_it_says_so(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["models", "stored", "--data-dir", str(tmp_path)])
    assert isinstance(result.exception, NotRunning)


@pytest.mark.parametrize("layers", ["3", "3:", ":3", "3:3", "4:3", "a:b", "-1:3"])
def test_a_range_that_is_none_is_refused(tmp_path: Path, layers: str) -> None:
    argv = ["models", "get", "acme/tiny", f"--layers={layers}", "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(app, argv)
    assert result.exit_code == 2
    assert "START:STOP" in result.output


def test_what_is_typed_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.Q4_K_M.gguf").touch()
    monkeypatch.chdir(tmp_path)

    def wanted(what: str, file: str = "", model: str = "") -> Wanted:
        return Wanted.named(what, file, "", model, None, False)

    assert wanted("acme/tiny") == Wanted(repo="acme/tiny", model="tiny")
    assert wanted("acme/tiny", "a/q8.gguf") == Wanted("acme/tiny", "a/q8.gguf", model="q8")
    assert wanted("http://h/m/") == Wanted("http://h/m/", model="m")
    assert wanted("tiny") == Wanted(model="tiny")
    here = str(tmp_path / "x.Q4_K_M.gguf")
    assert wanted("x.Q4_K_M.gguf") == Wanted(file=here, model="x.Q4_K_M")
    assert wanted("acme/none.gguf", model="z") == Wanted("acme/none.gguf", model="z")


def test_figures_read_well() -> None:
    assert [size_text(n) for n in (0, 999, 1500, 2_500_000, 3.2e9, 4e12)] == [
        "0 B", "999 B", "1.5 kB", "2.5 MB", "3.2 GB", "4.0 TB"
    ]  # fmt: skip
    assert eta_text(pb.Download(bytes_total=100)) == "-:--"
    assert eta_text(pb.Download(bytes_total=7_300, bytes_per_s=2)) == "1:00:50"


def test_markup_in_names_is_text() -> None:
    console = Console(file=io.StringIO(), width=200)
    name = "[red]x[/]"
    console.print(stored_table([pb.StoredModel(model=name)]))
    console.print(downloads_table([pb.Download(model=name, detail=name)]))
    console.print(pruned_table([pb.PrunedGroup(model=name)]))
    with DownloadView(name, console) as view:
        view.show(running(40))
        view.finish(running(100))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert output.count(name) >= 5
