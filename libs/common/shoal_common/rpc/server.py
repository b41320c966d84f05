"""A gRPC server as every service runs it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc

from shoal_common.rpc.addresses import address_of, socket_path
from shoal_common.rpc.guard import Guard, GuardInterceptor
from shoal_common.rpc.health import Health

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
KEEPALIVE_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
SIZE_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
)
_OPTIONS = (
    *KEEPALIVE_OPTIONS,
    *SIZE_OPTIONS,
    # Our own clients ping every 10 s; anything slower than 5 s is no abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Two servers on one port would share its calls at random; a busy port must be an error.
    ("grpc.so_reuseport", 0),
)

Servicer = TypeVar("Servicer")


class RpcServer:
    """One listening address with its services, health included.

    Add services, `start()`, later `stop()`. Handlers are `async`, raise ShoalError and never call
    `context.abort`. Held-open streams that should not delay a stop must end by themselves.
    """

    def __init__(self, address: str, *, token: str = "", drain_timeout_s: float = 10.0) -> None:
        """Prepare a server for `address`: "host:port" (0 for any free port) or "unix:/path".

        token: what callers must send; "" lets everyone in. Raises InvalidRequest for a malformed
        address.
        """
        self.address = address_of(address)
        self._drain_timeout_s = drain_timeout_s
        self._guard = Guard(token)
        self._health = Health()
        self._services: list[tuple[Callable[[Any, grpc.aio.Server], None], object]] = []
        self._server: grpc.aio.Server | None = None
        self._has_stopped = False

    @property
    def fault_count(self) -> int:
        """Calls that ended in an unforeseen exception."""
        return self._guard.fault_count

    def add(
        self,
        register: Callable[[Servicer, grpc.aio.Server], None],
        servicer: Servicer,
        service_name: str = "",
    ) -> None:
        """Serve `servicer`, before `start`.

        register: a generated `add_XServicer_to_server`. service_name: full name for the health
        service, such as "shoal.router.v1.RouterService".
        """
        assert self._server is None, "services are added before start"
        self._services.append((register, servicer))
        self._health.add(service_name)

    async def start(self) -> str:
        """Listen and answer; returns the bound address. Raises OSError if it is taken."""
        assert self._server is None, "a server starts once"
        server = grpc.aio.server(interceptors=(GuardInterceptor(self._guard),), options=_OPTIONS)
        for register, servicer in self._services:
            register(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.address = _listen(server, self.address)
        await server.start()
        self._server = server
        self._health.set_ready(True)
        log.info("rpc server listens", extra={"address": self.address})
        return self.address

    def set_ready(self, is_ready: bool) -> None:
        """Report the server as (not) serving to health checks; calls are answered either way."""
        self._health.set_ready(is_ready)

    async def stop(self) -> None:
        """Report not serving, refuse new calls, let running ones end, close. Idempotent.

        Calls that still run after `drain_timeout_s` are cancelled.
        """
        if self._server is None or self._has_stopped:
            return
        self._has_stopped = True
        self._guard.is_draining = True
        self._health.stop()
        await self._server.stop(self._drain_timeout_s)
        path = socket_path(self.address)
        if path is not None:
            path.unlink(missing_ok=True)
        log.info("rpc server stopped", extra={"address": self.address})

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


class Serve(Protocol):
    """How a server is made: `RpcServer` itself, or its like in memory."""

    def __call__(
        self, address: str, *, token: str = "", drain_timeout_s: float = 10.0
    ) -> RpcServer: ...


def _listen(server: grpc.aio.Server, address: str) -> str:
    path = socket_path(address)
    try:
        if path is None:
            port = server.add_insecure_port(address)
            return f"{address.rpartition(':')[0]}:{port}"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The socket is born 0700: a chmod afterwards would leave a moment open to others.
        before = os.umask(0o077)
        try:
            server.add_insecure_port(address)
        finally:
            os.umask(before)
    except (RuntimeError, OSError) as err:
        raise OSError(
            f"cannot listen on {address}: {err}; stop whoever holds it or choose another address"
        ) from err
    return address
