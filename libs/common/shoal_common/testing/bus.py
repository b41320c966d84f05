"""The bus in memory: same delivery, wildcards, bounded queues and errors as NATS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from shoal_common.bus import QUEUE_SIZE, Handler, QueuedSubscription, Subscription
from shoal_common.errors import Unavailable

log = logging.getLogger(__name__)

Answer = Callable[[bytes], Awaitable[bytes]]


class MemoryHub:
    """What a NATS server is to its clients: subjects and who listens."""

    def __init__(self) -> None:
        self.listeners: list[tuple[str, QueuedSubscription]] = []
        self.answers: list[tuple[str, Answer]] = []


class MemoryBus:
    """One client of a hub. Give every service its own on a shared hub, as with NATS."""

    def __init__(self, hub: MemoryHub | None = None) -> None:
        self._hub = hub or MemoryHub()
        self._is_closed = False
        self._subscriptions: list[QueuedSubscription] = []
        self._answers: list[tuple[str, Answer]] = []

    async def publish(self, subject: str, payload: bytes) -> None:
        self._check()
        _check_subject(subject)
        for pattern, subscription in list(self._hub.listeners):
            if matches(pattern, subject):
                subscription.offer(subject, payload)
        await asyncio.sleep(0)

    async def subscribe(
        self, subject: str, handler: Handler, *, queue_size: int = QUEUE_SIZE
    ) -> Subscription:
        self._check()

        async def unsubscribe() -> None:
            if entry in self._hub.listeners:
                self._hub.listeners.remove(entry)

        queued = QueuedSubscription(handler, queue_size, unsubscribe)
        entry = (subject, queued)
        self._hub.listeners.append(entry)
        self._subscriptions.append(queued)
        return queued

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        self._check()
        _check_subject(subject)
        answer = next((a for pattern, a in self._hub.answers if matches(pattern, subject)), None)
        if answer is None:
            raise Unavailable(f"nobody answered {subject} within {timeout_s:g} s")
        try:
            async with asyncio.timeout(timeout_s):
                return await _answered(answer, subject, payload)
        except TimeoutError as err:
            raise Unavailable(f"nobody answered {subject} within {timeout_s:g} s") from err

    async def reply(self, subject: str, answer: Answer) -> None:
        self._check()
        self._answers.append((subject, answer))
        self._hub.answers.append((subject, answer))

    async def close(self) -> None:
        """Stop every subscription of this client. Idempotent."""
        self._is_closed = True
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.stop()
        answers, self._answers = self._answers, []
        for entry in answers:
            self._hub.answers.remove(entry)

    def _check(self) -> None:
        if self._is_closed:
            raise Unavailable("this bus was closed")


def matches(pattern: str, subject: str) -> bool:
    """Whether `subject` falls under `pattern`: `*` is one part, a final `>` one or more."""
    parts = subject.split(".")
    wanted = pattern.split(".")
    for index, part in enumerate(wanted):
        if part == ">" and index == len(wanted) - 1:
            return len(parts) > index
        if index >= len(parts) or part not in ("*", parts[index]):
            return False
    return len(parts) == len(wanted)


def _check_subject(subject: str) -> None:
    assert subject, "a message needs a subject"
    assert not set(subject) & set("*> \t\r\n"), f"not a subject: {subject!r}"


async def _answered(answer: Answer, subject: str, payload: bytes) -> bytes:
    """The answer; one that fails is logged where it failed, and never comes."""
    try:
        return await answer(payload)
    except Exception:
        log.exception("bus reply failed", extra={"subject": subject})
    never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    return await never
