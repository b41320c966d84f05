"""The standard health service, `grpc.health.v1`, whose watchers do not hold up a drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """Health of the services of one server; "" is the server as a whole."""

    def __init__(self) -> None:
        self._services = {""}
        self._is_ready = False
        self._is_stopping = False
        self._changed = asyncio.Event()

    def add(self, service_name: str) -> None:
        self._services.add(service_name)

    def set_ready(self, is_ready: bool) -> None:
        """Tell watchers; without effect once stopping."""
        if not self._is_stopping:
            self._is_ready = is_ready
            self._wake()

    def stop(self) -> None:
        """Not serving from now on; every watcher hears it and its stream ends."""
        self._is_ready = False
        self._is_stopping = True
        self._wake()

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service here")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last: int | None = None
        while True:
            changed = self._changed
            is_last = self._is_stopping
            status = self._status(request.service)
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            if is_last:
                return
            await changed.wait()

    def _status(self, service_name: str) -> Any:
        if service_name not in self._services:
            return _UNKNOWN
        return SERVING if self._is_ready else NOT_SERVING

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
