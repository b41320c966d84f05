"""Outbound calls: the workers' agents, behind a Protocol. Errors come out as ShoalError."""

from __future__ import annotations

from typing import Any, Protocol

from shoal.worker.v1 import worker_pb2, worker_pb2_grpc
from shoal_common.errors import Unavailable
from shoal_common.rpc import RpcChannel, address_of, translated

ATTEMPTS_MAX = 2


class Agents(Protocol):
    async def load(self, locator: str, request: worker_pb2.LoadRequest) -> None:
        """Has a worker start to load; returns once it has said that it does."""
        ...

    async def unload(self, locator: str, request: worker_pb2.UnloadRequest) -> None:
        """Has a worker let layers go; returns once they are gone, after `drain_ms` at most."""
        ...


class GrpcAgents:
    """Orders are rare, so that a connection lives for one call."""

    def __init__(self, token: str, timeout_s: float) -> None:
        self._token = token
        self._timeout_s = timeout_s

    async def load(self, locator: str, request: worker_pb2.LoadRequest) -> None:
        await self._call(locator, "Load", request, self._timeout_s)

    async def unload(self, locator: str, request: worker_pb2.UnloadRequest) -> None:
        await self._call(locator, "Unload", request, self._timeout_s + request.drain_ms / 1000)

    async def _call(
        self,
        locator: str,
        method: str,
        request: worker_pb2.LoadRequest | worker_pb2.UnloadRequest,
        timeout_s: float,
    ) -> None:
        channel = RpcChannel(address_of(locator), token=self._token)
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel.channel)
        try:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                try:
                    with translated():
                        await getattr(stub, method)(request, timeout=timeout_s)
                    return
                except Unavailable:
                    # The request's id makes asking twice harmless.
                    if attempt == ATTEMPTS_MAX:
                        raise
        finally:
            await channel.close()
