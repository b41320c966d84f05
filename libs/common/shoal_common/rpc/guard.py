"""What every incoming call passes: the fleet token, its context, and its errors' way out.

Used by the real server as an interceptor and by the in-memory transport directly, so that both
behave alike.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import grpc

from shoal_common import log as shoal_log
from shoal_common import trace
from shoal_common.errors import Cancelled, Internal, ShoalError, Unauthenticated, Unavailable
from shoal_common.rpc.deadline import deadline, remaining_s
from shoal_common.rpc.status import to_shoal_error, to_status

log = logging.getLogger(__name__)

TOKEN_KEY = "x-shoal-token"
REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID_CHARS_MAX = 128
# Probes of an orchestrator cannot send metadata, and health says nothing secret.
_OPEN_PREFIX = "/grpc.health.v1.Health/"

T = TypeVar("T")
Handler = Any
Context = grpc.aio.ServicerContext[Any, Any]


class Guard:
    """Wraps handlers. `fault_count` counts errors that were nobody's plan."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self.is_draining = False
        self.fault_count = 0

    def wrap(self, method: str, handler: Handler) -> Handler:
        """`handler` behind the guard; it keeps its kind and its serializers."""
        behaviour, make = parts_of(handler)

        async def one(request: Any, context: Context) -> Any:
            return await self._run(method, context, lambda: behaviour(request, context))

        async def many(request: Any, context: Context) -> None:
            await self._run(method, context, lambda: _pump(behaviour, request, context))

        return make(
            many if handler.response_streaming else one,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def _run(self, method: str, context: Context, work: Callable[[], Awaitable[T]]) -> T:
        try:
            metadata = _pairs(context)
            self._admit(method, metadata)
            with _bound(method, context, metadata):
                return await work()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Something awaited inside was cancelled, not this call: the caller must hear of it.
            failure: ShoalError = Cancelled("the work behind this call was cancelled")
        except grpc.aio.AbortError:
            raise
        except ShoalError as error:
            failure = error
        except grpc.aio.AioRpcError as error:
            failure = to_shoal_error(error)
        except NotImplementedError:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented")
        except Exception:
            self.fault_count += 1
            log.exception("rpc handler failed", extra={"rpc": method})
            failure = Internal(f"{method} failed; its log says why")
        code, details, trailers = to_status(failure)
        await context.abort(code, details, trailers)

    def _admit(self, method: str, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        if method.startswith(_OPEN_PREFIX):
            return
        given = next((value for key, value in metadata if key == TOKEN_KEY), "")
        given_bytes = given if isinstance(given, bytes) else given.encode()
        if self._token and not hmac.compare_digest(given_bytes, self._token):
            problem = "wrong fleet token" if given_bytes else "no fleet token"
            raise Unauthenticated(
                f"{problem}; give every service of a fleet the same SHOAL_FLEET_TOKEN"
            )
        if self.is_draining:
            raise Unavailable("this server is stopping and takes no new calls; ask another")


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Puts the guard in front of every handler of a real server."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: gRPC answers UNIMPLEMENTED
            return None
        return self._guard.wrap(handler_call_details.method, handler)


async def _pump(behaviour: Callable[..., Any], request: Any, context: Context) -> None:
    """Run a streaming handler, generator or not; a generator is closed whatever happens."""
    answer = behaviour(request, context)
    if not inspect.isasyncgen(answer):
        await answer
        return
    messages: AsyncIterator[Any]
    async with aclosing(answer) as messages:
        async for message in messages:
            await context.write(message)


@contextmanager
def _bound(
    method: str, context: Context, metadata: tuple[tuple[str, str | bytes], ...]
) -> Iterator[None]:
    fields: dict[str, object] = {}
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str):
            fields["request_id"] = value[:_REQUEST_ID_CHARS_MAX]
    with (
        trace.remote_parent(metadata),
        trace.span(method.lstrip("/")),
        shoal_log.bind(**fields),
        deadline(remaining_s(context)),
    ):
        yield


def _pairs(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key, value) for key, value in context.invocation_metadata() or ())


def parts_of(handler: Any) -> tuple[Callable[..., Any], Callable[..., Handler]]:
    """The function inside a handler, and the maker of handlers of its kind."""
    if handler.request_streaming and handler.response_streaming:
        return handler.stream_stream, grpc.stream_stream_rpc_method_handler
    if handler.request_streaming:
        return handler.stream_unary, grpc.stream_unary_rpc_method_handler
    if handler.response_streaming:
        return handler.unary_stream, grpc.unary_stream_rpc_method_handler
    return handler.unary_unary, grpc.unary_unary_rpc_method_handler
