"""The two calls the command makes inside the fleet: importing a model, and looking at the fleet."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.router.v1 import router_pb2, router_pb2_grpc
from shoal.shard_store.v1 import shard_store_pb2, shard_store_pb2_grpc
from shoal_cli.errors import StartFailed
from shoal_common.rpc import RpcChannel, translated

_IMPORT_TIMEOUT_S = 3600.0
_LOOK_TIMEOUT_S = 5.0


async def import_model(
    address: str, token: str, path: Path, model: str, progress: Callable[[int, int], None]
) -> None:
    """Have the shard-store take in a folder; `progress` gets bytes done and in all.

    Raises ShoalError when the folder is refused, StartFailed when the stream ends early.
    """
    request = shard_store_pb2.ImportModelRequest(
        request_id=uuid.uuid4().hex, path=str(path), model=model
    )
    peer = RpcChannel(address, token=token)
    is_complete = False
    try:
        stub: Any = shard_store_pb2_grpc.ShardStoreServiceStub(peer.channel)
        with translated():
            async for message in stub.ImportModel(request, timeout=_IMPORT_TIMEOUT_S):
                progress(message.bytes_done, message.bytes_total)
                is_complete = message.is_complete
    finally:
        await peer.close()
    if not is_complete:
        raise StartFailed("import", f"the shard-store ended the import of {model} early")


async def get_fleet(address: str, token: str) -> router_pb2.GetFleetResponse:
    """Workers and pipelines as the router sees them. Raises ShoalError."""
    peer = RpcChannel(address, token=token)
    try:
        stub: Any = router_pb2_grpc.RouterServiceStub(peer.channel)
        with translated():
            response: router_pb2.GetFleetResponse = await stub.GetFleet(
                router_pb2.GetFleetRequest(), timeout=_LOOK_TIMEOUT_S
            )
            return response
    finally:
        await peer.close()


async def list_models(address: str, token: str) -> router_pb2.ListModelsResponse:
    """Models in the beats of the workers. Raises ShoalError."""
    peer = RpcChannel(address, token=token)
    try:
        stub: Any = router_pb2_grpc.RouterServiceStub(peer.channel)
        with translated():
            response: router_pb2.ListModelsResponse = await stub.ListModels(
                router_pb2.ListModelsRequest(), timeout=_LOOK_TIMEOUT_S
            )
            return response
    finally:
        await peer.close()
