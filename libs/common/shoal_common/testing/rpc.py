"""gRPC without sockets: generated stubs and servicers, joined in memory.

Messages are serialised on the way, calls pass the same guard (token, errors, deadline) as on a
real server, and deadlines run on the clock given. With a `Weather`, what is sent takes its time,
and processes (`virtual_time.in_process`) can vanish from the network.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from shoal_common.clock import Clock, SystemClock
from shoal_common.rpc.addresses import address_of
from shoal_common.rpc.channel import CallingChannel, RpcChannel
from shoal_common.rpc.guard import Guard, parts_of
from shoal_common.rpc.server import RpcServer
from shoal_common.testing.calls import ClientCall, Exchange, ServerContext
from shoal_common.testing.virtual_time import PROCESS
from shoal_common.testing.weather import CONNECT_TIMEOUT_S, Weather, host_of

log = logging.getLogger(__name__)


class MemoryRpc:
    """A network of servers and channels of its own.

    `server` and `channel` stand for `RpcServer(...)` and `RpcChannel(...)`.
    """

    def __init__(self, clock: Clock | None = None, weather: Weather | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._weather = weather
        self._ports = itertools.count(40_000)
        self._servers: dict[str, MemoryServer] = {}
        self._exchanges: dict[Exchange, None] = {}
        if weather is not None:
            weather.on_silence = self._silent

    @property
    def open_calls(self) -> list[Exchange]:
        """Calls that have not ended at both ends, in the order in which they began."""
        return list(self._exchanges)

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

    def begin(self, address: str, method: str, metadata: Any, timeout_s: float | None) -> Exchange:
        """A call to the server at `address`; without one it ends as UNAVAILABLE."""
        exchange = Exchange(
            method, tuple(metadata or ()), timeout_s, self._clock, PROCESS.get(), self._weather
        )
        server = self._servers.get(address)
        exchange.target = address.rpartition(":")[0] if server is None else server.process
        self._exchanges[exchange] = None
        for end in (exchange.status, exchange.served):
            end.add_done_callback(lambda _: self._forget_ended(exchange))
        if exchange.ends_at is not None:
            exchange.spawn(exchange.expire())
        if self._weather is not None and self._weather.is_blocked(exchange.source, exchange.target):
            loop = asyncio.get_running_loop()
            nowhere = contextvars.Context()
            loop.call_later(CONNECT_TIMEOUT_S, self._unreached, exchange, context=nowhere)
        exchange.to_server(lambda: self._arrived(address, exchange))
        return exchange

    def kill(self, process: str) -> None:
        """The process is gone: its ports are closed, and its peers hear of it."""
        for address, server in list(self._servers.items()):
            if server.process == process:
                self.release(address)
        for exchange in self.open_calls:
            self._reset(exchange, process)

    def give_up(self, process: str) -> None:
        """Connections with a process that answers nothing for too long end, at both ends."""
        for exchange in self.open_calls:
            if process in (exchange.source, exchange.target):
                self._break(exchange)

    def _arrived(self, address: str, exchange: Exchange) -> None:
        server = self._servers.get(address)
        if exchange.status.done():
            exchange.drop_served("the caller is gone")
        elif server is None:
            exchange.drop_served("there is no server")
            exchange.to_client(lambda: exchange.drop(f"no server at memory {address}"))
        else:
            server.accept(exchange)

    def _unreached(self, exchange: Exchange) -> None:
        if exchange.server_task is None and not exchange.status.done():
            exchange.drop("failed to connect: timed out")

    def _reset(self, exchange: Exchange, process: str) -> None:
        if exchange.source == process:
            exchange.to_server(lambda: exchange.drop_served("Socket closed"))
        if exchange.target == process:
            exchange.to_client(lambda: exchange.drop("Socket closed"))

    def _silent(self, source: str, target: str) -> None:
        for exchange in self.open_calls:
            if {host_of(exchange.source), host_of(exchange.target)} == {source, target}:
                self._break(exchange)

    def _break(self, exchange: Exchange) -> None:
        exchange.drop("keepalive watchdog timeout")
        exchange.drop_served("keepalive watchdog timeout")

    def _forget_ended(self, exchange: Exchange) -> None:
        if exchange.status.done() and exchange.served.done():
            self._exchanges.pop(exchange, None)


class MemoryServer(RpcServer):
    """An RpcServer that listens in a MemoryRpc."""

    def __init__(
        self, network: MemoryRpc, address: str, *, token: str, drain_timeout_s: float
    ) -> None:
        super().__init__(address, token=token, drain_timeout_s=drain_timeout_s)
        self._network = network
        self._handlers: dict[str, Any] = {}
        self._calls: dict[Exchange, None] = {}
        self._context = contextvars.copy_context()
        self._is_listening = False

    @property
    def process(self) -> str:
        """The process that has made it."""
        return self._context.get(PROCESS, "")

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

    def accept(self, exchange: Exchange) -> None:
        """Begin to serve a call, in the server's own context."""
        handler = self._handlers.get(exchange.method)
        if handler is None:
            exchange.answer(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        self._calls[exchange] = None
        exchange.served.add_done_callback(lambda _: self._calls.pop(exchange, None))
        exchange.serve(_serve(self._guard, exchange.method, handler, exchange), self._context)

    def _end_calls(self, details: str) -> None:
        for exchange in list(self._calls):
            exchange.drop_served(details)
            exchange.to_client(partial(exchange.drop, details))


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
        self._calls: dict[Exchange, None] = {}
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
            exchange = self._network.begin(self._address, method, metadata, timeout)
            self._calls[exchange] = None
            exchange.status.add_done_callback(lambda _: self._calls.pop(exchange, None))
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
        exchange.answer(grpc.StatusCode.CANCELLED, "the handler was cancelled")


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
    exchange.requests.close()


async def _each(requests: Any) -> AsyncIterator[Any]:
    if hasattr(requests, "__aiter__"):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
