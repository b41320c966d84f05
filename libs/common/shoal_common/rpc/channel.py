"""One open channel to a peer: token, trace and deadline go with every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from shoal_common import trace
from shoal_common.rpc.addresses import address_of
from shoal_common.rpc.deadline import effective_timeout

TOKEN_HEADER = "x-shoal-token"
MESSAGE_BYTES_MAX = 64 << 20
KEEPALIVE_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
)
_OPTIONS = (
    *KEEPALIVE_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A shared connection would carry the back-off of a peer that has been restarted meanwhile.
    ("grpc.use_local_subchannel_pool", 1),
)


class RpcChannel:
    """Give `channel` to a generated stub; close it at the end.

    inherits_deadline: calls end with the call that is being served. Streams that outlive a request
    turn it off.
    """

    def __init__(self, address: str, *, token: str = "", inherits_deadline: bool = True) -> None:
        self.address = address_of(address)
        self._channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        self.channel: grpc.aio.Channel = _Prepared(self._channel, token, inherits_deadline)  # type: ignore[assignment]

    async def close(self) -> None:
        """Idempotent; calls in flight end as cancelled."""
        await self._channel.close()


class _Prepared:
    """What a stub needs of a channel: its four kinds of calls, with our metadata and timeout."""

    def __init__(self, channel: grpc.aio.Channel, token: str, inherits_deadline: bool) -> None:
        self._channel = channel
        self._token = ((TOKEN_HEADER, token),) if token else ()
        self._inherits_deadline = inherits_deadline

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._prepared(self._channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._prepared(self._channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._prepared(self._channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._prepared(self._channel.stream_stream(*args, **kwargs))

    def _prepared(self, call: Any) -> Callable[..., Any]:
        def prepared(
            *args: Any, timeout: float | None = None, metadata: Any = (), **kwargs: Any
        ) -> Any:
            if self._inherits_deadline:
                timeout = effective_timeout(timeout)
            pairs = (*(metadata or ()), *self._token, *trace.metadata())
            return call(*args, timeout=timeout, metadata=pairs, **kwargs)

        return prepared
