"""The whole service on a real port."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blake3 import blake3

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common.errors import ShoalError
from shoal_common.rpc import RpcChannel, translated
from shoal_common.settings import FleetSettings
from shoal_shard_store.app import serving
from shoal_shard_store.settings import Settings


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def stub(tmp_path: Path, data_dir: Path) -> AsyncIterator[pb_grpc.ShardStoreServiceStub]:
    settings = Settings(
        import_roots=(tmp_path,),
        fleet=FleetSettings(data_dir=data_dir, token="secret-of-the-fleet"),
    )
    async with serving(settings) as address:
        channel = RpcChannel(address, token="secret-of-the-fleet")
        yield pb_grpc.ShardStoreServiceStub(channel.channel)
        await channel.close()


async def _import(stub: pb_grpc.ShardStoreServiceStub, folder: Path) -> pb.ImportModelResponse:
    request = pb.ImportModelRequest(request_id="req-1", path=str(folder))
    with translated():
        steps = [step async for step in stub.ImportModel(request, timeout=20)]
    return steps[-1]


async def _shard(stub: pb_grpc.ShardStoreServiceStub) -> tuple[str, int]:
    answer = await stub.GetManifest(pb.GetManifestRequest(model="tiny"), timeout=5)
    shard = json.loads(answer.manifest_json)["shards"][1]  # Of layer 0, 128 bytes.
    return shard["digest"], shard["size_bytes"]


async def _read(
    stub: pb_grpc.ShardStoreServiceStub, digest: str, offset_bytes: int = 0, length_bytes: int = 0
) -> bytes:
    request = pb.ReadBlobRequest(
        digest=digest, offset_bytes=offset_bytes, length_bytes=length_bytes
    )
    with translated():
        return b"".join([part.data async for part in stub.ReadBlob(request, timeout=5)])


async def test_imported_model_is_listed_and_can_be_read(
    stub: pb_grpc.ShardStoreServiceStub, model_folder: Path
) -> None:
    done = await _import(stub, model_folder)
    assert done.is_complete
    listed = (await stub.ListModels(pb.ListModelsRequest(), timeout=5)).models
    assert [(m.model, m.revision, m.layer_count, m.is_complete) for m in listed] == [
        ("tiny", done.revision, 2, True)
    ]
    digest, size_bytes = await _shard(stub)
    data = await _read(stub, digest)
    assert blake3(data).hexdigest() == digest
    assert await _read(stub, digest, 100) == data[100:]
    assert await _read(stub, digest, 100, 7) == data[100:107]
    assert await _read(stub, digest, size_bytes) == b""


async def test_bytes_beyond_the_blob_are_refused(
    stub: pb_grpc.ShardStoreServiceStub, model_folder: Path
) -> None:
    await _import(stub, model_folder)
    digest, size_bytes = await _shard(stub)
    for offset_bytes, length_bytes in (
        (size_bytes + 1, 0),
        (0, size_bytes + 1),
        (1 << 63, 1 << 63),
    ):
        with pytest.raises(ShoalError, match=f"of a blob of {size_bytes} bytes"):
            await _read(stub, digest, offset_bytes, length_bytes)


async def test_corrupt_shard_is_quarantined_and_importing_again_heals_it(
    stub: pb_grpc.ShardStoreServiceStub, model_folder: Path, data_dir: Path
) -> None:
    await _import(stub, model_folder)
    digest, _ = await _shard(stub)
    path = data_dir / "blobs" / digest[:2] / digest
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShoalError, match="import the model again"):
        await _read(stub, digest)
    assert path.with_name(f"{digest}.quarantine").exists()
    listed = (await stub.ListModels(pb.ListModelsRequest(), timeout=5)).models
    assert not listed[0].is_complete
    await _import(stub, model_folder)
    assert blake3(await _read(stub, digest)).hexdigest() == digest


async def test_folder_outside_the_roots_is_refused(stub: pb_grpc.ShardStoreServiceStub) -> None:
    with pytest.raises(ShoalError, match="may not be imported"):
        await _import(stub, Path("/etc"))


async def test_refused_folder_says_why(
    stub: pb_grpc.ShardStoreServiceStub, model_folder: Path
) -> None:
    (model_folder / "weights.bin").touch()
    with pytest.raises(ShoalError, match=r"weights\.bin: pickled data can run code"):
        await _import(stub, model_folder)


async def test_unknown_model_names_those_that_are_known(
    stub: pb_grpc.ShardStoreServiceStub, model_folder: Path
) -> None:
    await _import(stub, model_folder)
    with pytest.raises(ShoalError, match="'other' does not exist; known: tiny"), translated():
        await stub.GetManifest(pb.GetManifestRequest(model="other"), timeout=5)


async def test_configured_folders_are_imported_at_the_start(
    tmp_path: Path, data_dir: Path, model_folder: Path
) -> None:
    missing = tmp_path / "missing"
    settings = Settings(
        import_paths=(missing, model_folder), fleet=FleetSettings(data_dir=data_dir)
    )
    async with serving(settings) as address:
        channel = RpcChannel(address)
        stub = pb_grpc.ShardStoreServiceStub(channel.channel)
        await _import(stub, model_folder)  # Queues behind the one of the start.
        listed = (await stub.ListModels(pb.ListModelsRequest(), timeout=5)).models
        await channel.close()
    assert [model.model for model in listed] == ["tiny"]
