"""One call of the in-memory transport, seen from both ends.

An `Exchange` is the wire between them: bytes both ways, and at each end the status that is known
there. `ClientCall` has the shape of grpc.aio's calls, `ServerContext` that of its handlers'
contexts.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc

from shoal_common.clock import Clock
from shoal_common.testing.weather import Lane, Weather

# Messages on the way or unread before a writer waits, as flow control does on a real connection.
_WINDOW = 16
Metadata = tuple[tuple[str, Any], ...]
Status = tuple[grpc.StatusCode, str, Metadata]


class Pipe:
    """A bounded queue of messages in one direction that can be closed."""

    def __init__(self, send: Callable[[Callable[[], None]], None]) -> None:
        """send: carries a piece of news to the reader's end."""
        self._send = send
        self._messages: deque[bytes] = deque()
        self._under_way = 0
        self._has_no_writer = False
        self._has_ended = False
        self._readers: deque[asyncio.Future[None]] = deque()
        self._writers: deque[asyncio.Future[None]] = deque()

    async def put(self, message: bytes) -> bool:
        """Wait for room; False when the pipe was closed meanwhile."""
        while not self._has_no_writer and self._under_way + len(self._messages) >= _WINDOW:
            await _turn(self._writers)
        if self._has_no_writer:
            return False
        self._under_way += 1
        self._send(lambda: self._arrived(message))
        return True

    async def get(self) -> bytes | None:
        """The next message; None behind the last."""
        while not self._messages and not self._has_ended:
            await _turn(self._readers)
        if not self._messages:
            return None
        message = self._messages.popleft()
        _wake(self._writers)
        return message

    def close(self, then: Callable[[], None] | None = None) -> None:
        """No more messages are written; `then` is called at the reader's end, behind the last."""
        self._has_no_writer = True
        _wake(self._writers)
        self._send(lambda: self._ended(then))

    def abandon(self) -> None:
        """The writer's end is over; the reader hears of it in another way."""
        self._has_no_writer = True
        _wake(self._writers)

    def end(self, *, discard: bool) -> None:
        """The reader's end is over, whatever is still under way; `discard` drops the unread too."""
        self._has_no_writer = self._has_ended = True
        if discard:
            self._messages.clear()
        _wake(self._readers)
        _wake(self._writers)

    def _arrived(self, message: bytes) -> None:
        self._under_way -= 1
        if not self._has_ended:
            self._messages.append(message)
            _wake(self._readers)

    def _ended(self, then: Callable[[], None] | None) -> None:
        self._has_ended = True
        _wake(self._readers)
        if then is not None:
            then()


async def _turn(waiting: deque[asyncio.Future[None]]) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.append(future)
    await future


def _wake(waiting: deque[asyncio.Future[None]]) -> None:
    """Everybody looks again."""
    while waiting:
        future = waiting.popleft()
        if not future.done():
            future.set_result(None)


class Exchange:
    """The wire of one call. At each end the first word decides how it ended there.

    source, target: the processes at its ends. `status` is what the caller knows, `served` what the
    server knows.
    """

    def __init__(
        self,
        method: str,
        metadata: Metadata,
        timeout_s: float | None,
        clock: Clock,
        source: str = "",
        weather: Weather | None = None,
    ) -> None:
        self.method = method
        self.metadata = metadata
        self.clock = clock
        self.source = source
        self.target = ""
        self.ends_at = None if timeout_s is None else clock.monotonic() + timeout_s
        self.requests = Pipe(self.to_server)
        self.responses = Pipe(self.to_client)
        loop = asyncio.get_running_loop()
        self.status: asyncio.Future[Status] = loop.create_future()
        self.served: asyncio.Future[Status] = loop.create_future()
        self.is_locally_cancelled = False
        self.server_task: asyncio.Task[None] | None = None
        self._weather = weather
        self._lane_to_server, self._lane_to_client = Lane(), Lane()
        self._client_tasks: dict[asyncio.Task[None], None] = {}
        self._server_tasks: dict[asyncio.Task[None], None] = {}

    def to_server(self, deliver: Callable[[], None]) -> None:
        """Carry a piece of news from the caller to the server, in order."""
        if self._weather is None:
            deliver()
        else:
            self._weather.carry(self.source, self.target, deliver, self._lane_to_server)

    def to_client(self, deliver: Callable[[], None]) -> None:
        """Carry a piece of news from the server to the caller, in order."""
        if self._weather is None:
            deliver()
        else:
            self._weather.carry(self.target, self.source, deliver, self._lane_to_client)

    def spawn(self, work: Any) -> None:
        """A task of the caller's that ends with the call."""
        _hold(asyncio.get_running_loop().create_task(work), self._client_tasks)

    def serve(self, work: Any, context: contextvars.Context) -> None:
        """Begin the handler, as a task of the server's."""
        loop = asyncio.get_running_loop()
        self.server_task = loop.create_task(work, context=context.copy())
        _hold(self.server_task, self._server_tasks)
        if self.ends_at is not None:
            _hold(loop.create_task(self._expire_served(), context=context), self._server_tasks)

    def time_remaining(self) -> float | None:
        return None if self.ends_at is None else max(0.0, self.ends_at - self.clock.monotonic())

    async def expire(self) -> None:
        """End the call when its time is up."""
        await self._until_late()
        self.finish(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", discard=True)

    def finish(
        self, code: grpc.StatusCode, details: str, trailers: Metadata = (), *, discard: bool = False
    ) -> None:
        """Fix the status at the caller's end, and let the server know that it is over."""
        if self.status.done():
            return
        self._know(code, details, trailers, discard=discard)
        self.to_server(lambda: self.drop_served("the caller is gone"))

    def answer(self, code: grpc.StatusCode, details: str, trailers: Metadata = ()) -> None:
        """Fix the status at the server's end; it follows the messages to the caller."""
        if self.served.done():
            return
        self.served.set_result((code, details, trailers))
        _cancel(self._server_tasks)
        self.requests.end(discard=True)
        self.responses.close(lambda: self._know(code, details, trailers, discard=False))

    def drop(self, details: str) -> None:
        """The connection breaks, as the caller sees it."""
        if not self.status.done():
            self._know(grpc.StatusCode.UNAVAILABLE, details, (), discard=True)

    def drop_served(self, details: str) -> None:
        """The connection breaks, as the server sees it: the handler is cancelled."""
        if self.served.done():
            return
        self.served.set_result((grpc.StatusCode.CANCELLED, details, ()))
        _cancel(self._server_tasks)
        self.requests.end(discard=True)
        self.responses.abandon()

    def _know(
        self, code: grpc.StatusCode, details: str, trailers: Metadata, *, discard: bool
    ) -> None:
        if self.status.done():
            return
        self.status.set_result((code, details, trailers))
        _cancel(self._client_tasks)
        self.requests.abandon()
        self.responses.end(discard=discard)

    async def _expire_served(self) -> None:
        await self._until_late()
        self.drop_served("Deadline Exceeded")

    async def _until_late(self) -> None:
        left_s = self.time_remaining()
        assert left_s is not None
        await self.clock.sleep(left_s)


def _hold(task: asyncio.Task[None], tasks: dict[asyncio.Task[None], None]) -> None:
    tasks[task] = None
    task.add_done_callback(lambda done: tasks.pop(done, None))


def _cancel(tasks: dict[asyncio.Task[None], None]) -> None:
    try:
        current = asyncio.current_task()
    except RuntimeError:  # the wire itself, outside of any task
        current = None
    for task in list(tasks):
        if task is not current:
            task.cancel()


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
        served = self._exchange.served
        return served.done() and served.result()[0] is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        return self._exchange.served.done()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._exchange.served.add_done_callback(lambda _: callback(self))

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
        self._exchange.answer(code, details, tuple(trailing_metadata) or self._trailers)
        raise grpc.aio.AbortError("aborted")

    def complete(self) -> None:
        """The handler has returned."""
        self._exchange.answer(self._code, self._details, self._trailers)


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
        self._exchange.requests.close()

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
