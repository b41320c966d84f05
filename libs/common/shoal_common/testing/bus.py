"""The bus in memory: same delivery, wildcards, bounded queues and errors as NATS.

With a `Weather` messages take their time, come late and come twice, as they may after a
reconnect.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from shoal_common.bus import QUEUE_SIZE, Handler, QueuedSubscription, Subscription
from shoal_common.errors import Unavailable
from shoal_common.testing.virtual_time import PROCESS
from shoal_common.testing.weather import Lane, Weather

log = logging.getLogger(__name__)

Answer = Callable[[bytes], Awaitable[bytes]]
BUS_HOST = "bus"


@dataclass(eq=False)
class _Listener:
    pattern: str
    queue: QueuedSubscription
    process: str


@dataclass(eq=False)
class _Replier:
    pattern: str
    answer: Answer
    context: contextvars.Context


@dataclass
class Mischief:
    """What a bus under weather does to messages. Shares are of messages, 0 to 1."""

    random: random.Random
    late_share: float = 0.0
    late_s_max: float = 0.0
    twice_share: float = 0.0


class MemoryHub:
    """What a NATS server is to its clients: subjects and who listens. It stands on BUS_HOST."""

    def __init__(self, weather: Weather | None = None, mischief: Mischief | None = None) -> None:
        self.listeners: list[_Listener] = []
        self.repliers: list[_Replier] = []
        self.mischief = mischief
        self._weather = weather

    def pass_on(self, subject: str, payload: bytes, source: str, lane: Lane) -> None:
        """Give a message of the process `source` to everybody who listens."""
        if self._weather is None:
            self._arrived(subject, payload)
            return
        for late_s in self._copies():
            arrival = lane if not late_s else Lane(asyncio.get_running_loop().time() + late_s)
            self._weather.carry(source, BUS_HOST, lambda: self._arrived(subject, payload), arrival)

    def forget(self, process: str) -> None:
        """A process is gone: nothing is queued for it any more."""
        self.listeners = [each for each in self.listeners if each.process != process]
        self.repliers = [each for each in self.repliers if _process(each) != process]

    async def ask(self, subject: str, payload: bytes, source: str) -> bytes:
        """What the first replier says; without one, or when the weather takes it, never."""
        replier = next((r for r in self.repliers if matches(r.pattern, subject)), None)
        never: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if replier is None:
            return await never
        if self._weather is None:
            return await _answered(replier.answer, subject, payload)
        await self._journey(source, _process(replier))
        loop = asyncio.get_running_loop()
        work = _answered(replier.answer, subject, payload)
        answer = await loop.create_task(work, context=replier.context.copy())
        await self._journey(_process(replier), source)
        return answer

    async def _journey(self, source: str, target: str) -> None:
        assert self._weather is not None
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._weather.carry(
            source, target, lambda: None if arrived.done() else arrived.set_result(None), Lane()
        )
        await arrived

    def _copies(self) -> list[float]:
        """How late each copy of a message is, in seconds."""
        if self.mischief is None:
            return [0.0]
        dice = self.mischief.random
        copies = [0.0] * (1 + (dice.random() < self.mischief.twice_share))
        return [
            dice.uniform(0, self.mischief.late_s_max)
            if dice.random() < self.mischief.late_share
            else 0.0
            for _ in copies
        ]

    def _arrived(self, subject: str, payload: bytes) -> None:
        for listener in list(self.listeners):
            if not matches(listener.pattern, subject):
                continue
            if self._weather is None:
                listener.queue.offer(subject, payload)
            else:
                offer = partial(listener.queue.offer, subject, payload)
                self._weather.carry(BUS_HOST, listener.process, offer, Lane())


class MemoryBus:
    """One client of a hub. Give every service its own on a shared hub, as with NATS."""

    def __init__(self, hub: MemoryHub | None = None) -> None:
        self._hub = hub or MemoryHub()
        self._is_closed = False
        self._process = PROCESS.get()
        self._lane = Lane()
        self._subscriptions: list[QueuedSubscription] = []
        self._repliers: list[_Replier] = []

    async def publish(self, subject: str, payload: bytes) -> None:
        self._check()
        _check_subject(subject)
        self._hub.pass_on(subject, payload, self._process, self._lane)
        await asyncio.sleep(0)

    async def subscribe(
        self, subject: str, handler: Handler, *, queue_size: int = QUEUE_SIZE
    ) -> Subscription:
        self._check()

        async def unsubscribe() -> None:
            if entry in self._hub.listeners:
                self._hub.listeners.remove(entry)

        queued = QueuedSubscription(handler, queue_size, unsubscribe)
        entry = _Listener(subject, queued, self._process)
        self._hub.listeners.append(entry)
        self._subscriptions.append(queued)
        return queued

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        self._check()
        _check_subject(subject)
        if not any(matches(each.pattern, subject) for each in self._hub.repliers):
            raise Unavailable(f"nobody answered {subject} within {timeout_s:g} s")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._hub.ask(subject, payload, self._process)
        except TimeoutError as err:
            raise Unavailable(f"nobody answered {subject} within {timeout_s:g} s") from err

    async def reply(self, subject: str, answer: Answer) -> None:
        self._check()
        replier = _Replier(subject, answer, contextvars.copy_context())
        self._repliers.append(replier)
        self._hub.repliers.append(replier)

    async def close(self) -> None:
        """Stop every subscription of this client. Idempotent."""
        self._is_closed = True
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.stop()
        repliers, self._repliers = self._repliers, []
        for replier in repliers:
            if replier in self._hub.repliers:
                self._hub.repliers.remove(replier)

    def _check(self) -> None:
        if self._is_closed:
            raise Unavailable("this bus was closed")


def _process(replier: _Replier) -> str:
    return replier.context.get(PROCESS, "")


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
