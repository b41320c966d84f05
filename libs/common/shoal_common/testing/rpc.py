"""gRPC without sockets: generated stubs and servicers, joined in memory.

Messages are serialised on the way, calls pass the same guard (token, errors, deadline) as on a
real server, and deadlines run on the clock given.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from shoal_common.clock import Clock, SystemClock
from shoal_common.rpc.addresses import address_of
from shoal_common.rpc.channel import CallingChannel, RpcChannel
from shoal_common.rpc.guard import Guard, parts_of
from shoal_common.rpc.server import RpcServer
from shoal_common.testing.calls import ClientCall, Exchange, ServerContext

log = logging.getLogger(__name__)


class MemoryRpc:
    """A network of servers and channels of its own.

    `server` and `channel` stand for `RpcServer(...)` and `RpcChannel(...)`.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._ports = itertools.count(40_000)
        self._servers: dict[str, MemoryServer] = {}

    def server(
        self, address: str, *, token: str = "", drain_timeout_s: float = 10.0
    ) -> MemoryServer:
        return MemoryServer(self, address, token=token, drain_timeout_s=drain_timeout_s)

    def channel(
        self, address: str, *, token: str = "", inherits_deadline: bool = True
    ) -> MemoryChannel:
        return MemoryChannel(self, address, token=token, inherits_deadline=inherits_deadline)

    def bind(self, server: MemoryServer, address: str) -> str:
        """Let `server` answer at `address`; raises OSError if it is taken."""
        host, _, port = address.rpartition(":")
        bound = f"{host}:{next(self._ports)}" if port == "0" else address
        if bound in self._servers:
            raise OSError(f"cannot listen on {bound}: taken")
        self._servers[bound] = server
        return bound

    def release(self, address: str) -> None:
        self._servers.pop(address, None)

    def dial(self, address: str, method: str, exchange: Exchange) -> None:
        """Hand a call to the server at `address`; without one it ends as UNAVAILABLE."""
        server = self._servers.get(address)
        if exchange.ends_at is not None:
            exchange.spawn(exchange.expire())
        if server is None:
            exchange.finish(grpc.StatusCode.UNAVAILABLE, f"no server at memory {address}")
        else:
            server.accept(method, exchange)

    def exchange(self, metadata: Any, timeout_s: float | None) -> Exchange:
        return Exchange(tuple(metadata or ()), timeout_s, self._clock)


class MemoryServer(RpcServer):
    """An RpcServer that listens in a MemoryRpc."""

    def __init__(
        self, network: MemoryRpc, address: str, *, token: str, drain_timeout_s: float
    ) -> None:
        super().__init__(address, token=token, drain_timeout_s=drain_timeout_s)
        self._network = network
        self._handlers: dict[str, Any] = {}
        self._calls: set[Exchange] = set()
        self._is_listening = False

    async def start(self) -> str:
        assert not self._is_listening, "a server starts once"
        registry: Any = _Registry(self._handlers)
        for register, servicer in self._services:
            register(servicer, registry)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registry)
        self.address = self._network.bind(self, self.address)
        self._is_listening = True
        self._health.set_ready(True)
        return self.address

    async def stop(self) -> None:
        if not self._is_listening or self._has_stopped:
            return
        self._has_stopped = True
        self._guard.is_draining = True
        self._health.stop()
        self._network.release(self.address)
        running = [e.server_task for e in self._calls if e.server_task is not None]
        if running:
            await asyncio.wait(running, timeout=self._drain_timeout_s)
        self._end_calls("the server has stopped")

    def kill(self) -> None:
        """Vanish as a killed process does: every running call fails at once."""
        self._has_stopped = True
        self._network.release(self.address)
        self._end_calls("Socket closed")

    def accept(self, method: str, exchange: Exchange) -> None:
        """Begin to serve a call."""
        handler = self._handlers.get(method)
        if handler is None:
            exchange.finish(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        self._calls.add(exchange)
        exchange.status.add_done_callback(lambda _: self._calls.discard(exchange))
        exchange.server_task = exchange.spawn(_serve(self._guard, method, handler, exchange))

    def _end_calls(self, details: str) -> None:
        for exchange in list(self._calls):
            exchange.finish(grpc.StatusCode.UNAVAILABLE, details, discard=True)


class MemoryChannel(RpcChannel):
    """An RpcChannel into a MemoryRpc."""

    def __init__(
        self, network: MemoryRpc, address: str, *, token: str, inherits_deadline: bool
    ) -> None:
        self.address = address_of(address)
        self.channel = CallingChannel(_Wire(network, self.address), token, inherits_deadline)


class _Wire(grpc.aio.Channel):
    """The innermost channel: turns a stub's calls into exchanges."""

    def __init__(self, network: MemoryRpc, address: str) -> None:
        self._network = network
        self._address = address
        self._calls: set[Exchange] = set()
        self._is_closed = False

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._callable(method, False, *args, **kwargs)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._callable(method, False, *args, **kwargs)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._callable(method, True, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._callable(method, True, *args, **kwargs)

    def _callable(
        self,
        method: str,
        is_streaming: bool,
        request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
        _registered_method: bool = False,
    ) -> Callable[..., ClientCall]:
        def start(
            request: Any, *, timeout: float | None = None, metadata: Any = None, **_: Any
        ) -> ClientCall:
            if self._is_closed:
                raise grpc.aio.UsageError("Channel is closed.")
            exchange = self._network.exchange(metadata, timeout)
            self._calls.add(exchange)
            exchange.status.add_done_callback(lambda _: self._calls.discard(exchange))
            self._network.dial(self._address, method, exchange)
            if not is_streaming:
                exchange.spawn(_send(exchange, request_serializer, [request]))
            elif request is not None:
                exchange.spawn(_send(exchange, request_serializer, request))
            return ClientCall(exchange, request_serializer, response_deserializer)

        return start

    async def close(self, grace: float | None = None) -> None:
        self._is_closed = True
        for exchange in list(self._calls):
            exchange.is_locally_cancelled = True
            exchange.finish(grpc.StatusCode.CANCELLED, "Channel closed!", discard=True)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        closed, ready = grpc.ChannelConnectivity.SHUTDOWN, grpc.ChannelConnectivity.READY
        return closed if self._is_closed else ready

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Returns at once: the state of memory does not change by itself."""

    async def channel_ready(self) -> None:
        """Returns at once: memory is always connected."""

    async def __aenter__(self) -> _Wire:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class _Registry:
    """Takes what generated registration functions give to a server."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """The same handlers come by name below."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, Any]
    ) -> None:
        for name, handler in method_handlers.items():
            self._handlers[f"/{service_name}/{name}"] = handler


async def _serve(guard: Guard, method: str, handler: Any, exchange: Exchange) -> None:
    wrapped = guard.wrap(method, handler)
    behaviour, _ = parts_of(wrapped)
    context: Any = ServerContext(exchange, handler.response_serializer)
    requests = _received(exchange, handler.request_deserializer)
    try:
        request = requests if handler.request_streaming else await anext(requests)
        answer = await behaviour(request, context)
        if not handler.response_streaming:
            await context.write(answer)
        context.complete()
    except grpc.aio.AbortError:
        pass  # the context has set the status
    finally:
        exchange.finish(grpc.StatusCode.CANCELLED, "the handler was cancelled")


async def _received(exchange: Exchange, deserialize: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    while (message := await exchange.requests.get()) is not None:
        yield deserialize(message)


async def _send(exchange: Exchange, serialize: Callable[[Any], bytes], requests: Any) -> None:
    """Send what a stub was given: a list, an iterable or an async one."""
    try:
        async for request in _each(requests):
            await exchange.requests.put(serialize(request))
    except Exception:
        log.exception("requests of a call failed")
        exchange.finish(grpc.StatusCode.CANCELLED, "its requests failed", discard=True)
    await exchange.requests.close()


async def _each(requests: Any) -> AsyncIterator[Any]:
    if hasattr(requests, "__aiter__"):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
