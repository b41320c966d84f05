"""One gRPC server: bound, guarded, healthy, drained."""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from shoal_common import log as shoal_log
from shoal_common import trace
from shoal_common.errors import Internal, ShoalError, Unauthenticated
from shoal_common.rpc.channel import KEEPALIVE_OPTIONS, TOKEN_HEADER
from shoal_common.rpc.deadline import inherited
from shoal_common.rpc.status import to_status

log = logging.getLogger(__name__)

_OPTIONS = (
    *KEEPALIVE_OPTIONS,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
)
_HEALTH = "/grpc.health.v1.Health/"


class RpcServer:
    """Listens on `host:port` (0: a free port) or `unix:/path`, for callers with the token."""

    def __init__(self, address: str, *, token: str = "", drain_timeout_s: float = 10.0) -> None:
        self.address = ""
        self._configured = address
        self._drain_timeout_s = drain_timeout_s
        self._guard = Guard(token)
        self._server = grpc.aio.server(interceptors=[self._guard], options=_OPTIONS)
        self._health = health_aio.HealthServicer()
        self._is_started = False
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def add(
        self,
        register: Callable[[Any, grpc.aio.Server], None],
        servicer: object,
        service_name: str = "",
    ) -> None:
        """Register a servicer, before `start`. `register` is the generated function."""
        register(servicer, self._server)

    async def start(self) -> str:
        """Listen and report healthy; returns the bound address. Raises OSError when it is taken."""
        if self._configured.startswith("unix:"):
            self._prepare_socket(Path(self._configured.removeprefix("unix:")))
        try:
            port = self._server.add_insecure_port(self._configured)
        except RuntimeError as err:
            raise OSError(f"cannot listen on {self._configured}: is the port taken?") from err
        await self._server.start()
        self._is_started = True
        if self._configured.startswith("unix:"):
            os.chmod(self._configured.removeprefix("unix:"), 0o700)
            self.address = self._configured
        else:
            self.address = f"{self._configured.rpartition(':')[0]}:{port}"
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return self.address

    async def stop(self) -> None:
        """Report unhealthy, refuse new calls, let running ones end in time. Idempotent."""
        if not self._is_started:
            return
        self._is_started = False
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._drain_timeout_s)

    async def __aenter__(self) -> RpcServer:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    @staticmethod
    def _prepare_socket(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)


class Guard(grpc.aio.ServerInterceptor):
    """Around every handler: token, ids for logs, deadline, and errors into status."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_HEALTH):
            return handler
        metadata = tuple(handler_call_details.invocation_metadata or ())
        if handler.response_streaming:
            behavior = handler.stream_stream or handler.unary_stream
            wrapped = self._streaming(behavior, method, metadata)
        else:
            behavior = handler.stream_unary or handler.unary_unary
            wrapped = self._unary(behavior, method, metadata)
        return _same_kind(handler)(
            wrapped, handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, behavior: Any, method: str, metadata: Any) -> Any:
        async def call(request: Any, context: Any) -> Any:
            async with self._scope(context, method, metadata):
                return await behavior(request, context)

        return call

    def _streaming(self, behavior: Any, method: str, metadata: Any) -> Any:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            async with (
                self._scope(context, method, metadata),
                contextlib.aclosing(behavior(request, context)) as responses,
            ):
                async for response in responses:
                    yield response

        return call

    @contextlib.asynccontextmanager
    async def _scope(self, context: Any, method: str, metadata: Any) -> AsyncIterator[None]:
        try:
            self._authorise(metadata)
            with (
                inherited(context),
                trace.remote_parent(metadata),
                shoal_log.bind(rpc=method.rpartition("/")[2]),
            ):
                yield
        except ShoalError as err:
            await context.abort_with_status(to_status(err))
        except grpc.aio.AbortError:
            raise
        except grpc.aio.AioRpcError as err:
            log.exception("call of a peer failed", extra={"rpc": method})
            await context.abort_with_status(to_status(_internal(err)))
        except Exception as err:
            log.exception("handler failed", extra={"rpc": method})
            await context.abort_with_status(to_status(_internal(err)))

    def _authorise(self, metadata: Any) -> None:
        if not self._token:
            return
        given = next((value for key, value in metadata if key == TOKEN_HEADER), "")
        if not hmac.compare_digest(str(given).encode(), self._token):
            raise Unauthenticated("the fleet token is missing or wrong")


def _same_kind(handler: Any) -> Callable[..., Any]:
    if handler.request_streaming:
        return (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
    return (
        grpc.unary_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.unary_unary_rpc_method_handler
    )


def _internal(error: Exception) -> Internal:
    return Internal(f"the service failed ({type(error).__name__}); its log says more")
