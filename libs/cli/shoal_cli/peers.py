"""The calls the command makes inside the fleet: importing a model, and asking the router."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal.router.v1 import router_pb2, router_pb2_grpc
from shoal.shard_store.v1 import shard_store_pb2, shard_store_pb2_grpc
from shoal_cli.errors import RouterSilent, StartFailed
from shoal_common.errors import DeadlineExceeded, Unavailable
from shoal_common.host import host_id
from shoal_common.rpc import RpcChannel, translated

_IMPORT_TIMEOUT_S = 3600.0
_LOOK_TIMEOUT_S = 5.0
# A placement of a large fleet is computed for it.
_EXPLAIN_TIMEOUT_S = 60.0


async def import_model(
    address: str, token: str, path: Path, model: str, progress: Callable[[int, int], None]
) -> None:
    """Have the shard-store take in a folder or a GGUF file; `progress` gets bytes done and in all.

    Raises ShoalError when it is refused, StartFailed when the stream ends early.
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


def router_of(data_dir: Path) -> tuple[str, str]:
    """Address and fleet token of a data folder's router. Raises RouterSilent before it is up."""
    try:
        address = json.loads((data_dir / "run" / "router.ready.json").read_bytes())["grpc"]
        return address, (data_dir / "fleet_token").read_text().strip()
    except (OSError, ValueError, KeyError) as err:
        raise RouterSilent("it has not started yet") from err


async def get_fleet(address: str, token: str) -> router_pb2.GetFleetResponse:
    """Workers and pipelines as the router sees them. Raises ShoalError."""
    response: router_pb2.GetFleetResponse = await _ask(
        address, token, "GetFleet", router_pb2.GetFleetRequest()
    )
    return response


async def list_models(address: str, token: str) -> router_pb2.ListModelsResponse:
    """Models that are held or could be loaded. Raises ShoalError."""
    response: router_pb2.ListModelsResponse = await _ask(
        address, token, "ListModels", router_pb2.ListModelsRequest()
    )
    return response


async def explain_plan(
    address: str, token: str, opening: router_pb2.PlanOpen
) -> router_pb2.ExplainPlanResponse:
    """What a request would get now, and why. Raises ShoalError."""
    request = router_pb2.ExplainPlanRequest(open=opening)
    response: router_pb2.ExplainPlanResponse = await _ask(
        address, token, "ExplainPlan", request, _EXPLAIN_TIMEOUT_S
    )
    return response


async def await_plan(address: str, token: str, model: str, timeout_s: float) -> None:
    """Hold a request's place until it has a plan, which has a model loaded that nobody holds.

    Raises ShoalError with the router's words when it comes to nothing.
    """
    opening = router_pb2.PlanOpen(
        request_id=uuid.uuid4().hex, model=model, driver_host_id=host_id()
    )
    peer = RpcChannel(address, token=token)
    try:
        stub: Any = router_pb2_grpc.RouterServiceStub(peer.channel)
        with translated():
            call = stub.Plan(timeout=timeout_s)
            await call.write(router_pb2.PlanRequest(open=opening))
            while response := await call.read():
                if response.HasField("plan"):
                    call.cancel()
                    return
        raise RouterSilent(f"it ended the plan of {model} early")
    finally:
        await peer.close()


async def _ask(
    address: str, token: str, method: str, request: Any, timeout_s: float = _LOOK_TIMEOUT_S
) -> Any:
    peer = RpcChannel(address, token=token)
    try:
        stub: Any = router_pb2_grpc.RouterServiceStub(peer.channel)
        with translated():
            return await getattr(stub, method)(request, timeout=timeout_s)
    except (Unavailable, DeadlineExceeded) as err:
        if err.reason in (Unavailable.reason, DeadlineExceeded.reason):
            raise RouterSilent(str(err)) from err
        raise
    finally:
        await peer.close()
