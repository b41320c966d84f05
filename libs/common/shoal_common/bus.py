"""The fleet's message bus: fan-out of small facts, at most once.

Owns subjects' delivery, bounded queues and reconnecting. Does not know what the messages mean.
Nothing may depend on a message arriving: state that matters is repeated (beats) or asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shoal_common.errors import RequestTooLarge, Unavailable

log = logging.getLogger(__name__)

Handler = Callable[[str, bytes], Awaitable[None]]

QUEUE_SIZE = 1024
_CONNECT_TIMEOUT_S = 10.0
_PORT_POLL_S = 0.05
_PENDING_BYTES_MAX = 8 << 20


class Subscription(Protocol):
    """One handler's queue. `dropped_count` counts messages that did not fit."""

    dropped_count: int

    async def stop(self) -> None: ...


class Bus(Protocol):
    """Publish and subscribe; `*` matches one part of a subject, `>` the rest."""

    async def publish(self, subject: str, payload: bytes) -> None: ...

    async def subscribe(
        self, subject: str, handler: Handler, *, queue_size: int = QUEUE_SIZE
    ) -> Subscription:
        """Call `handler(subject, payload)` for each message, one after another.

        A slow handler loses the oldest messages beyond `queue_size`; one that raises is logged
        and called again with the next.
        """
        ...

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Ask whoever answers `subject`. Raises Unavailable when nobody does in time."""
        ...

    async def reply(self, subject: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer requests on `subject` until the bus is closed."""
        ...

    async def close(self) -> None: ...


class QueuedSubscription:
    """A bounded queue with one task that feeds the handler; used by every implementation."""

    def __init__(
        self, handler: Handler, queue_size: int, unsubscribe: Callable[[], Awaitable[None]]
    ) -> None:
        assert queue_size > 0
        self.dropped_count = 0
        self._handler = handler
        self._queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(queue_size)
        self._unsubscribe = unsubscribe
        self._task = asyncio.create_task(self._run())

    def offer(self, subject: str, payload: bytes) -> None:
        """Queue a message; the oldest makes room."""
        if self._queue.full():
            self._queue.get_nowait()
            self.dropped_count += 1
        self._queue.put_nowait((subject, payload))

    async def stop(self) -> None:
        """No call of the handler begins after this. Idempotent."""
        await self._unsubscribe()
        self._task.cancel()
        if asyncio.current_task() is not self._task:  # a handler may stop its own subscription
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            subject, payload = await self._queue.get()
            try:
                await self._handler(subject, payload)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                # Something the handler awaited was cancelled, not this subscription.
                log.warning("bus handler was cancelled", extra={"subject": subject})
            except Exception:
                log.exception("bus handler failed", extra={"subject": subject})


class NatsBus:
    """The bus on a NATS server. Reconnects for ever; subscriptions survive a restart of NATS."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._subscriptions: list[QueuedSubscription] = []

    @classmethod
    async def connect(cls, url: str, *, token: str = "", name: str = "") -> NatsBus:
        """Connect within 10 s. Raises Unavailable naming the address."""
        client = Client()
        is_begun = is_connected = False

        async def on_error(error: Exception) -> None:
            # nats-py would try a refused token again for ever.
            if not is_connected and "authorization" in str(error).lower():
                raise nats.errors.AuthorizationError from error
            log.debug("bus error", extra={"error": type(error).__name__})

        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await _until_open(url)
                is_begun = True
                await client.connect(
                    url,
                    token=token or None,
                    name=name or None,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.2,
                    allow_reconnect=True,
                    ping_interval=10,
                    error_cb=on_error,
                )
            is_connected = True
        except (TimeoutError, OSError, nats.errors.Error) as err:
            raise Unavailable(
                f"NATS does not answer at {_without_secrets(url)} ({type(err).__name__}); is it "
                "running, and is the fleet token right?"
            ) from err
        finally:
            if is_begun and not is_connected:  # Its close fails where nothing was begun.
                await client.close()
        return cls(client)

    async def publish(self, subject: str, payload: bytes) -> None:
        try:
            await self._client.publish(subject, payload)
        except nats.errors.MaxPayloadError as err:
            raise RequestTooLarge(
                f"a message of {len(payload)} bytes on {subject} exceeds what NATS takes "
                f"({self._client.max_payload} bytes); send less, or by gRPC"
            ) from err
        except nats.errors.Error as err:
            raise Unavailable(f"NATS took no message: {type(err).__name__}") from err

    async def subscribe(
        self, subject: str, handler: Handler, *, queue_size: int = QUEUE_SIZE
    ) -> Subscription:
        self._refuse_closed()
        raw: Any = None

        async def unsubscribe() -> None:
            if raw is not None and not self._client.is_closed:
                try:
                    await raw.unsubscribe()
                except nats.errors.Error as err:
                    log.debug("unsubscribe failed", extra={"error": type(err).__name__})

        queued = QueuedSubscription(handler, queue_size, unsubscribe)

        async def on_message(message: Msg) -> None:
            queued.offer(message.subject, message.data)

        try:
            raw = await self._client.subscribe(
                subject, cb=on_message, pending_bytes_limit=_PENDING_BYTES_MAX
            )
            await self._settled()
        except BaseException:
            await queued.stop()
            raise
        self._subscriptions.append(queued)
        return queued

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        try:
            message = await self._client.request(subject, payload, timeout=timeout_s)
        except (TimeoutError, nats.errors.Error) as err:
            raise Unavailable(f"nobody answered {subject} within {timeout_s:g} s") from err
        data: bytes = message.data
        return data

    async def reply(self, subject: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        async def on_message(message: Msg) -> None:
            try:
                await message.respond(await answer(message.data))
            except Exception:
                log.exception("bus reply failed", extra={"subject": subject})

        self._refuse_closed()
        await self._client.subscribe(subject, cb=on_message)
        await self._settled()

    def _refuse_closed(self) -> None:
        if self._client.is_closed:
            raise Unavailable("this bus was closed")

    async def _settled(self) -> None:
        """Wait until the server knows of new subscriptions; while it is away, it learns later."""
        try:
            # The first ping of nats-py overtakes the SUB that waits in its buffer; by the time it
            # is answered the buffer has been written, so that the second comes behind.
            for _ in range(2):
                if self._client.is_connected:
                    await self._client.flush(timeout=2)
        except (TimeoutError, nats.errors.Error) as err:
            log.debug("subscription waits for NATS", extra={"error": type(err).__name__})

    async def close(self) -> None:
        """Send what is pending, then end. Idempotent."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.stop()
        if self._client.is_closed:
            return
        try:
            if self._client.is_connected:
                await self._client.flush(timeout=2)
        except (TimeoutError, nats.errors.Error) as err:
            log.debug("last messages lost", extra={"error": type(err).__name__})
        await self._client.close()


async def _until_open(url: str) -> None:
    """Wait for the port: a first connect to a closed one costs two seconds."""
    where = urlsplit(url if "://" in url else f"nats://{url}")
    while True:
        try:
            _, writer = await asyncio.open_connection(where.hostname, where.port or 4222)
        except OSError:
            await asyncio.sleep(_PORT_POLL_S)
        else:
            writer.close()
            return


def _without_secrets(url: str) -> str:
    return url.rpartition("@")[2]
