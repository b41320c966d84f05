"""The shard store, behind a Protocol: where tokenisers and templates come from.

Every call has a deadline or dies with its connection; errors come out as ShoalError.
"""

from __future__ import annotations

from typing import Any, Protocol

from shoal.shard_store.v1 import shard_store_pb2, shard_store_pb2_grpc
from shoal_common.driving import asking
from shoal_common.errors import Unavailable
from shoal_common.rpc import RpcChannel

FILE_SIZE_BYTES_MAX = 256 * 1024 * 1024


class ShardStore(Protocol):
    async def read_manifest(self, model: str, revision: str) -> bytes: ...
    async def read_file(self, digest: str, size_bytes: int) -> bytes: ...


class GrpcShardStore:
    def __init__(self, channel: RpcChannel, timeout_s: float) -> None:
        self._stub: Any = shard_store_pb2_grpc.ShardStoreServiceStub(channel.channel)
        self._timeout_s = timeout_s

    async def read_manifest(self, model: str, revision: str) -> bytes:
        request = shard_store_pb2.GetManifestRequest(model=model, revision=revision)
        with asking("the shard store"):
            answer = await self._stub.GetManifest(request, timeout=self._timeout_s)
        return bytes(answer.manifest_json)

    async def read_file(self, digest: str, size_bytes: int) -> bytes:
        if size_bytes > FILE_SIZE_BYTES_MAX:
            raise Unavailable(f"a model file of {size_bytes} bytes is too large to read")
        request = shard_store_pb2.ReadBlobRequest(digest=digest)
        data = bytearray()
        call = self._stub.ReadBlob(request, timeout=self._timeout_s)
        try:
            with asking("the shard store"):
                async for part in call:
                    data += part.data
        finally:
            call.cancel()
        return bytes(data)
