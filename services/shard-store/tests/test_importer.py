"""Imports from start to end, without a network."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from blake3 import blake3

from shoal_common.errors import Cancelled, InvalidRequest, ShoalError, UnknownModel
from shoal_shard_store.blob_store import BlobStore
from shoal_shard_store.catalog import Catalog
from shoal_shard_store.errors import UntrustedFolder
from shoal_shard_store.importer import Importer, ImportJob, ImportProgress


class Store:
    """The parts of a shard-store on a folder."""

    def __init__(self, folder: Path) -> None:
        self.blobs = BlobStore(folder / "blobs")
        self.catalog = Catalog(folder / "manifests")
        self.importer = Importer(self.blobs, self.catalog, shard_size_bytes=200)

    async def run(self, folder: Path, model: str = "") -> list[ImportProgress]:
        return [step async for step in self.importer.run(folder, model)]

    def read(self, digest: str) -> bytes:
        descriptor = self.blobs.open(digest)
        try:
            return os.pread(descriptor, 1 << 20, 0)
        finally:
            os.close(descriptor)

    def files(self) -> dict[str, int]:
        paths = [path for path in self.blobs.folder.rglob("*") if path.is_file()]
        return {path.name: path.stat().st_ino for path in paths}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


async def test_manifest_leads_to_the_bytes_of_every_tensor(
    store: Store, model_folder: Path
) -> None:
    last = (await store.run(model_folder))[-1]
    assert last.is_complete
    assert last.bytes_done == last.bytes_total
    stored = store.catalog.get("tiny")
    assert stored.revision == last.revision == blake3(stored.manifest_json).hexdigest()
    document = stored.document()
    assert len(document["shards"]) == 4
    source = (model_folder / "model.safetensors").read_bytes()
    found = 0
    for group in document["groups"]:
        for segment in group["segments"]:
            shard = store.read(document["shards"][segment["shard"]]["digest"])
            data = shard[segment["offset_bytes"] :][: segment["size_bytes"]]
            assert blake3(data).hexdigest() == segment["digest"]
            found += len(segment["tensors"])
            for tensor in segment["tensors"]:
                assert data[tensor["offset_bytes"] :][: tensor["size_bytes"]] in source
    assert found == 7
    config = document["files"]["config.json"]["digest"]
    assert store.read(config) == (model_folder / "config.json").read_bytes()


async def test_unchanged_folder_is_not_cut_again(store: Store, model_folder: Path) -> None:
    first = (await store.run(model_folder))[-1]
    before = store.files()
    assert (await store.run(model_folder))[-1].revision == first.revision
    assert store.files() == before


async def test_changed_folder_becomes_a_new_revision(store: Store, model_folder: Path) -> None:
    first = (await store.run(model_folder))[-1]
    (model_folder / "tokenizer.json").write_text('{"version": 2}')
    second = (await store.run(model_folder))[-1]
    assert second.revision != first.revision
    assert store.catalog.get("tiny").revision == second.revision
    assert store.catalog.get("tiny", first.revision).revision == first.revision


async def test_import_replaces_a_shard_that_is_gone(store: Store, model_folder: Path) -> None:
    await store.run(model_folder)
    digest = store.catalog.get("tiny").document()["shards"][1]["digest"]
    store.blobs.path_of(digest).unlink()
    await store.run(model_folder)
    assert store.read(digest)


async def test_refused_folder_leaves_nothing_behind(store: Store, model_folder: Path) -> None:
    (model_folder / "weights.bin").touch()
    with pytest.raises(UntrustedFolder):
        await store.run(model_folder)
    assert store.files() == {}
    with pytest.raises(UnknownModel):
        store.catalog.get("tiny")


@pytest.mark.parametrize("model", ["../x", ".hidden", "a/b", "x" * 129, "a\n"])
async def test_name_that_is_no_plain_name_is_refused(
    store: Store, model_folder: Path, model: str
) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a model"):
        await store.run(model_folder, model)


def test_cancelled_job_leaves_no_unfinished_file(store: Store, model_folder: Path) -> None:
    job = ImportJob(store.blobs, store.catalog, model_folder, "tiny", 200)
    job.cancel()
    with pytest.raises(Cancelled):
        job.run()
    assert store.files() == {}


async def test_closing_an_import_that_waits_does_not_wait_for_the_others(
    store: Store, model_folder: Path
) -> None:
    await store.importer._turn.acquire()  # Somebody else's import runs.
    steps = store.importer.run(model_folder, "")
    assert not (await anext(steps)).is_complete
    async with asyncio.timeout(5):
        await steps.aclose()
    store.importer._turn.release()
    assert (await store.run(model_folder))[-1].is_complete


async def test_two_imports_of_one_folder_agree(store: Store, model_folder: Path) -> None:
    runs = await asyncio.gather(store.run(model_folder), store.run(model_folder))
    assert runs[0][-1].revision == runs[1][-1].revision


async def test_imports_beyond_the_bound_are_refused(store: Store, model_folder: Path) -> None:
    outcomes = await asyncio.gather(
        *(store.run(model_folder) for _ in range(20)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, ShoalError)]
    assert {error.reason for error in refused} == {"TOO_MANY_IMPORTS"}
    assert len(outcomes) - len(refused) >= 8
