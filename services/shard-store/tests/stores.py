"""Stores, models and hubs that tests put together."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shoal.shard_store.v1 import shard_store_pb2 as pb
from shoal.shard_store.v1 import shard_store_pb2_grpc as pb_grpc
from shoal_common.bus import Bus
from shoal_common.clock import SystemClock
from shoal_common.errors import Unavailable
from shoal_common.rpc import RpcChannel, translated
from shoal_common.settings import FleetSettings
from shoal_shard_store.app import serving
from shoal_shard_store.settings import Settings

TOKEN = "secret-of-the-fleet"
LAYER_COUNT = 4
TENSOR_SIZE_BYTES = 4096
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": LAYER_COUNT,
    "max_position_embeddings": 128,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


class HastyClock(SystemClock):
    """Waits are noted and over at once."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead_s

    async def sleep(self, delay_s: float) -> None:
        self.waits.append(delay_s)
        self._ahead_s += delay_s
        await asyncio.sleep(0)


def tensor_bytes(name: str, salt: int = 0) -> bytes:
    """Bytes that no other tensor has."""
    return random.Random(f"{name}{salt}").randbytes(TENSOR_SIZE_BYTES)


def layer_names(layer: int) -> tuple[str, ...]:
    return (f"model.layers.{layer}.a.weight", f"model.layers.{layer}.b.weight")


ALL_NAMES = (
    "model.embed_tokens.weight",
    *(name for layer in range(LAYER_COUNT) for name in layer_names(layer)),
    "model.norm.weight",
    "lm_head.weight",
)


def safetensors(names: tuple[str, ...], salt: int = 0) -> bytes:
    size = TENSOR_SIZE_BYTES
    header = {
        name: {"dtype": "U8", "shape": [64, 64], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    raw = json.dumps(header).encode()
    body = b"".join(tensor_bytes(name, salt) for name in names)
    return len(raw).to_bytes(8, "little") + raw + body


def repository(salt: int = 0) -> dict[str, bytes]:
    """A model in two safetensors files with an index, and things nobody should touch."""
    first, second = ALL_NAMES[:5], ALL_NAMES[5:]
    names = ("model-1.safetensors", "model-2.safetensors")
    weight_map = {**dict.fromkeys(first, names[0]), **dict.fromkeys(second, names[1])}
    return {
        "config.json": json.dumps({**CONFIG, "auto_map": {"AutoModel": "evil.Model"}}).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        names[0]: safetensors(first, salt),
        names[1]: safetensors(second, salt),
        "pytorch_model.bin": b"pickled",
        "evil.py": b"boom",
    }


class Store:
    """A shard-store that runs, and a client of it."""

    def __init__(self, address: str, data_dir: Path) -> None:
        self.address = address
        self.data_dir = data_dir
        self.channel = RpcChannel(address, token=TOKEN)
        self.stub: Any = pb_grpc.ShardStoreServiceStub(self.channel.channel)

    async def acquire(self, repo: str = "acme/tiny", **fields: Any) -> pb.Download:
        """Until the end; the last word."""
        last = pb.Download()
        with translated():
            async for step in self.stub.AcquireModel(request_of(repo, **fields), timeout=30):
                last = step.download
        return last

    async def manifest(self, model: str = "tiny") -> dict[str, Any]:
        with translated():
            answer = await self.stub.GetManifest(pb.GetManifestRequest(model=model), timeout=5)
        document: dict[str, Any] = json.loads(answer.manifest_json)
        return document

    async def models(self) -> dict[str, pb.StoredModel]:
        answer = await self.stub.ListModels(pb.ListModelsRequest(), timeout=5)
        return {model.model: model for model in answer.models}

    async def downloads(self) -> list[pb.Download]:
        answer = await self.stub.ListDownloads(pb.ListDownloadsRequest(), timeout=5)
        return list(answer.downloads)

    async def read(self, digest: str, is_local_only: bool = False) -> bytes:
        request = pb.ReadBlobRequest(digest=digest, is_local_only=is_local_only)
        with translated():
            return b"".join([part.data async for part in self.stub.ReadBlob(request, timeout=10)])

    async def layer(self, layer: int, model: str = "tiny") -> bytes:
        """The bytes of one layer, by way of the manifest."""
        document = await self.manifest(model)
        return b"".join([await self.read(each) for each in digests_of(document, f"layer.{layer}")])

    def files(self, folder: str = "blobs") -> dict[str, int]:
        """Names and sizes below a folder of the store."""
        found = (self.data_dir / folder).rglob("*")
        return {path.name: path.stat().st_size for path in found if path.is_file()}


def request_of(repo: str, **fields: Any) -> pb.AcquireModelRequest:
    layers = fields.pop("layers", None)
    request = pb.AcquireModelRequest(request_id="r", repo=repo, **fields)
    if layers is not None:
        request.layers.layer_start, request.layers.layer_stop = layers
    return request


def digests_of(document: dict[str, Any], group: str) -> list[str]:
    shards = document["shards"]
    segments = next(each["segments"] for each in document["groups"] if each["name"] == group)
    return [shards[segment["shard"]]["digest"] for segment in segments]


def layer_bytes(layer: int, salt: int = 0) -> bytes:
    return b"".join(tensor_bytes(name, salt) for name in layer_names(layer))


async def no_bus() -> Bus:
    """NATS that is away."""
    raise Unavailable("NATS is away")


@asynccontextmanager
async def store_of(
    data_dir: Path,
    connect: Callable[[], Any] = no_bus,
    clock: HastyClock | None = None,
    **fields: Any,
) -> AsyncIterator[Store]:
    """A store on a free port; waits between attempts are over at once."""
    settings = Settings(
        side_address="",
        hub_hosts=("localhost",),
        fleet=FleetSettings(data_dir=data_dir, token=TOKEN),  # type: ignore[arg-type]
        **fields,
    )
    async with serving(settings, connect, clock or HastyClock()) as address:
        store = Store(address, data_dir)
        try:
            yield store
        finally:
            await store.channel.close()


def flipped(data: bytes) -> Iterator[int]:
    """Bytes with one wrong."""
    return (byte ^ (1 if index == 7 else 0) for index, byte in enumerate(data))
