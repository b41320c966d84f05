"""The client's end: a channel per peer; token, request id, trace and deadline on each call."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

import grpc

from shoal_common import log as shoal_log
from shoal_common import trace
from shoal_common.rpc.addresses import address_of
from shoal_common.rpc.deadline import shortened
from shoal_common.rpc.guard import REQUEST_ID_KEY, TOKEN_KEY
from shoal_common.rpc.server import KEEPALIVE_OPTIONS, SIZE_OPTIONS

_OPTIONS = (
    *KEEPALIVE_OPTIONS,
    *SIZE_OPTIONS,
    # A restarted peer is found within a second or two.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Fleet traffic never goes through a web proxy.
    ("grpc.enable_http_proxy", 0),
    # One channel closed or broken must not touch another to the same peer.
    ("grpc.use_local_subchannel_pool", 1),
)


class RpcChannel:
    """A connection to one peer, made on first use and remade when lost. Cheap to keep open.

    `channel` is for generated stubs: `XStub(rpc_channel.channel)`. Call inside `translated()`.
    """

    def __init__(self, address: str, *, token: str = "", inherits_deadline: bool = True) -> None:
        """inherits_deadline: unary calls end with the call that is being served.

        Raises InvalidRequest if `address` is neither an address nor a `grpc:` locator.
        """
        self.address = address_of(address)
        self.channel: grpc.aio.Channel = CallingChannel(
            grpc.aio.insecure_channel(self.address, options=_OPTIONS), token, inherits_deadline
        )

    async def close(self) -> None:
        """Cancel running calls and let go of the connection."""
        await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class Dial(Protocol):
    """How a channel is made: `RpcChannel` itself, or its like in memory."""

    def __call__(self, address: str, *, token: str = "") -> RpcChannel: ...


class CallingChannel(grpc.aio.Channel):
    """Adds what every call carries to the calls of an inner channel.

    gRPC's own interceptors would do the same at the price of an extra task and queue per stream.
    """

    def __init__(self, inner: grpc.aio.Channel, token: str, inherits_deadline: bool = True) -> None:
        self._inner = inner
        self._inherits_deadline = inherits_deadline
        self._token = ((TOKEN_KEY, token),) if token else ()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._carrying(self._inner.unary_unary(*args, **kwargs), is_short=True)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._carrying(self._inner.stream_unary(*args, **kwargs), is_short=True)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._carrying(self._inner.unary_stream(*args, **kwargs), is_short=False)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._carrying(self._inner.stream_stream(*args, **kwargs), is_short=False)

    def _carrying(self, call: Callable[..., Any], is_short: bool) -> Callable[..., Any]:
        inherits = is_short and self._inherits_deadline

        def start(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: Any = None,
            **kwargs: Any,
        ) -> Any:
            return call(
                request,
                timeout=shortened(timeout) if inherits else timeout,
                metadata=(*(metadata or ()), *self._token, *_request_id(), *trace.metadata()),
                **kwargs,
            )

        return start

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def _request_id() -> tuple[tuple[str, str], ...]:
    request_id = shoal_log.bound().get("request_id")
    if not isinstance(request_id, str) or not request_id.isascii():
        return ()
    return ((REQUEST_ID_KEY, request_id),)
