"""One call of the in-memory transport, seen from both ends.

An `Exchange` is the wire between them: bytes both ways, one status. `ClientCall` has the shape of
grpc.aio's calls, `ServerContext` that of its handlers' contexts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc

from shoal_common.clock import Clock

# Messages on the way before a writer waits, as flow control does on a real connection.
_WINDOW = 16
Metadata = tuple[tuple[str, Any], ...]


class Pipe:
    """A bounded queue of messages in one direction that can be closed."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._is_closed = False
        self._changed = asyncio.Condition()

    async def put(self, message: bytes) -> bool:
        """Wait for room; False when the pipe was closed meanwhile."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_closed or len(self._messages) < _WINDOW)
            if self._is_closed:
                return False
            self._messages.append(message)
            self._changed.notify_all()
            return True

    async def get(self) -> bytes | None:
        """The next message; None behind the last."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._is_closed or bool(self._messages))
            message = self._messages.popleft() if self._messages else None
            self._changed.notify_all()
            return message

    async def close(self, *, discard: bool = False) -> None:
        """No more messages; `discard` also drops those on the way."""
        async with self._changed:
            self._is_closed = True
            if discard:
                self._messages.clear()
            self._changed.notify_all()


class Exchange:
    """The wire of one call. The first `finish` decides how it ended."""

    def __init__(self, metadata: Metadata, timeout_s: float | None, clock: Clock) -> None:
        self.metadata = metadata
        self.clock = clock
        self.ends_at = None if timeout_s is None else clock.monotonic() + timeout_s
        self.requests = Pipe()
        self.responses = Pipe()
        self.status: asyncio.Future[tuple[grpc.StatusCode, str, Metadata]] = (
            asyncio.get_running_loop().create_future()
        )
        self.is_locally_cancelled = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.server_task: asyncio.Task[None] | None = None

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """A task that is held until it ends."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def time_remaining(self) -> float | None:
        return None if self.ends_at is None else max(0.0, self.ends_at - self.clock.monotonic())

    async def expire(self) -> None:
        """End the call when its time is up."""
        left = self.time_remaining()
        assert left is not None
        await self.clock.sleep(left)
        self.finish(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", discard=True)

    def finish(
        self, code: grpc.StatusCode, details: str, trailers: Metadata = (), *, discard: bool = False
    ) -> None:
        """Fix the status; the handler is cancelled if it still runs."""
        if self.status.done():
            return
        self.status.set_result((code, details, trailers))
        current = asyncio.current_task()
        for task in list(self.tasks):
            if task is not current:
                task.cancel()
        self.spawn(self._close(discard))

    async def _close(self, discard: bool) -> None:
        await self.requests.close(discard=True)
        await self.responses.close(discard=discard)


class ServerContext:
    """What a handler sees of its call."""

    def __init__(self, exchange: Exchange, serialize: Callable[[Any], bytes]) -> None:
        self._exchange = exchange
        self._serialize = serialize
        self._trailers: Metadata = ()
        self._code = grpc.StatusCode.OK
        self._details = ""

    def invocation_metadata(self) -> Metadata:
        return self._exchange.metadata

    def time_remaining(self) -> float | None:
        return self._exchange.time_remaining()

    def peer(self) -> str:
        return "memory:"

    def cancelled(self) -> bool:
        status = self._exchange.status
        return status.done() and status.result()[0] is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._exchange.status.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._exchange.status.add_done_callback(lambda _: callback(self))

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        self._trailers = tuple(trailing_metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Accepted and dropped: no service of the fleet reads it."""

    async def write(self, message: Any) -> None:
        await self._exchange.responses.put(self._serialize(message))

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> None:
        self._exchange.finish(code, details, tuple(trailing_metadata) or self._trailers)
        raise grpc.aio.AbortError("aborted")

    def complete(self) -> None:
        """The handler has returned."""
        self._exchange.finish(self._code, self._details, self._trailers)


class ClientCall:
    """What a stub returns: awaited, iterated, or read and written by hand."""

    def __init__(
        self,
        exchange: Exchange,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
    ) -> None:
        self._exchange = exchange
        self._serialize = serialize
        self._deserialize = deserialize

    def __del__(self) -> None:
        # A call that nobody holds any more is cancelled, as in gRPC.
        if not self._exchange.status.done() and not self._exchange.status.get_loop().is_closed():
            self.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._single().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    async def read(self) -> Any:
        """The next message or EOF. Raises AioRpcError when the call failed."""
        try:
            message = await self._exchange.responses.get()
            if message is not None:
                return self._deserialize(message)
            await self._raise_for_status()
        except asyncio.CancelledError:
            self.cancel()
            raise
        return grpc.aio.EOF

    async def write(self, request: Any) -> None:
        if not await self._exchange.requests.put(self._serialize(request)):
            await self._raise_for_status()
            raise asyncio.InvalidStateError("the call is over or its requests have ended")

    async def done_writing(self) -> None:
        await self._exchange.requests.close()

    def cancel(self) -> bool:
        if self._exchange.status.done():
            return False
        self._exchange.is_locally_cancelled = True
        self._exchange.finish(
            grpc.StatusCode.CANCELLED, "Locally cancelled by application!", discard=True
        )
        return True

    def cancelled(self) -> bool:
        status = self._exchange.status
        return status.done() and status.result()[0] is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._exchange.status.done()

    def time_remaining(self) -> float | None:
        return self._exchange.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._exchange.status.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def wait_for_connection(self) -> None:
        if self._exchange.status.done():
            await self._raise_for_status()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata(*(await asyncio.shield(self._exchange.status))[2])

    async def code(self) -> grpc.StatusCode:
        return (await asyncio.shield(self._exchange.status))[0]

    async def details(self) -> str:
        return (await asyncio.shield(self._exchange.status))[1]

    async def _single(self) -> Any:
        message = await self.read()
        if message is not grpc.aio.EOF:
            await self.read()  # the status behind the message
        return message

    async def _raise_for_status(self) -> None:
        code, details, trailers = await asyncio.shield(self._exchange.status)
        if self._exchange.is_locally_cancelled:
            raise asyncio.CancelledError
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details=details
            )
