"""What every bus does: run against NATS itself and its fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from shoal_common.bus import Bus, NatsBus
from shoal_common.errors import Unavailable
from shoal_common.testing import MemoryBus, MemoryHub, NatsProcess, start_nats

TOKEN = "contract-token"
Connect = Callable[[], Awaitable[Bus]]


@pytest.fixture(scope="module")
def nats_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    folder: Path = tmp_path_factory.mktemp("nats")
    with start_nats(folder, TOKEN) as process:
        yield process


@pytest.fixture(params=["memory", "nats"])
async def connect(
    request: pytest.FixtureRequest, nats_process: NatsProcess
) -> AsyncIterator[Connect]:
    """Makes clients of one bus; all are closed at the end."""
    hub = MemoryHub()
    async with AsyncExitStack() as stack:

        async def make() -> Bus:
            bus: Bus = MemoryBus(hub)
            if request.param == "nats":
                bus = await NatsBus.connect(nats_process.url, token=TOKEN)
            stack.push_async_callback(bus.close)
            return bus

        yield make


class Inbox:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self._received: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def __call__(self, subject: str, payload: bytes) -> None:
        self._received.put_nowait((subject, payload))

    async def next(self) -> tuple[str, bytes]:
        return await asyncio.wait_for(self._received.get(), 5)

    @property
    def count(self) -> int:
        return self._received.qsize()


async def test_message_reaches_every_subscriber_in_order(connect: Connect) -> None:
    sender, first, second = await connect(), await connect(), await connect()
    inboxes = [Inbox(), Inbox()]
    await first.subscribe("order.x", inboxes[0])
    await second.subscribe("order.x", inboxes[1])
    for number in range(50):
        await sender.publish("order.x", str(number).encode())
    for inbox in inboxes:
        assert [await inbox.next() for _ in range(50)] == [
            ("order.x", str(number).encode()) for number in range(50)
        ]


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("wild.*.beat", ["wild.a.beat"], ["wild.a.b.beat", "wild.beat", "wild.a.kv"]),
        ("wild.>", ["wild.a", "wild.a.b"], ["wild", "other.a"]),
        ("wild.a", ["wild.a"], ["wild.a.b", "wild.ab"]),
    ],
)
async def test_wildcards_choose_subjects(
    connect: Connect, pattern: str, hits: list[str], misses: list[str]
) -> None:
    bus = await connect()
    inbox, marks = Inbox(), Inbox()
    await bus.subscribe(pattern, inbox)
    await bus.subscribe("mark", marks)
    for subject in [*misses, *hits, "mark"]:
        await bus.publish(subject, b"")
    await marks.next()
    assert [(await inbox.next())[0] for _ in hits] == hits
    assert inbox.count == 0


async def test_slow_handler_loses_the_oldest_and_counts_them(connect: Connect) -> None:
    bus = await connect()
    entered, go_on, ended, marks = asyncio.Event(), asyncio.Event(), asyncio.Event(), Inbox()
    seen: list[bytes] = []

    async def slow(subject: str, payload: bytes) -> None:
        entered.set()
        await go_on.wait()
        seen.append(payload)
        if payload == b"8":
            ended.set()

    subscription = await bus.subscribe("slow", slow, queue_size=3)
    await bus.subscribe("mark", marks)
    await bus.publish("slow", b"0")
    await asyncio.wait_for(entered.wait(), 5)
    for number in range(1, 9):
        await bus.publish("slow", str(number).encode())
    await bus.publish("mark", b"")
    await marks.next()
    assert subscription.dropped_count == 5
    go_on.set()
    await asyncio.wait_for(ended.wait(), 5)
    assert seen == [b"0", b"6", b"7", b"8"]


@pytest.mark.parametrize("error", [RuntimeError("once"), asyncio.CancelledError()])
async def test_handler_that_fails_is_called_again(connect: Connect, error: BaseException) -> None:
    bus = await connect()
    inbox = Inbox()
    failures = iter([error])

    async def failing(subject: str, payload: bytes) -> None:
        for failure in failures:
            raise failure
        await inbox(subject, payload)

    await bus.subscribe("fail", failing)
    await bus.publish("fail", b"1")
    await bus.publish("fail", b"2")
    assert await inbox.next() == ("fail", b"2")


async def test_stopped_subscription_hears_nothing_more(connect: Connect) -> None:
    bus = await connect()
    stopped, marks = Inbox(), Inbox()
    subscription = await bus.subscribe("stop", stopped)
    await bus.subscribe("mark", marks)
    await subscription.stop()
    await subscription.stop()
    await bus.publish("stop", b"")
    await bus.publish("mark", b"")
    await marks.next()
    assert stopped.count == 0


async def test_handler_can_stop_its_own_subscription(connect: Connect) -> None:
    bus = await connect()
    ended = asyncio.Event()

    async def once(subject: str, payload: bytes) -> None:
        try:
            await subscription.stop()
        finally:
            ended.set()

    subscription = await bus.subscribe("own", once)
    await bus.publish("own", b"")
    await asyncio.wait_for(ended.wait(), 5)


async def test_request_is_answered(connect: Connect) -> None:
    asking, answering = await connect(), await connect()

    async def answer(payload: bytes) -> bytes:
        return payload[::-1]

    await answering.reply("ask", answer)
    assert await asking.request("ask", b"abc", 5) == b"cba"


async def test_request_that_nobody_answers_is_unavailable(connect: Connect) -> None:
    bus = await connect()
    with pytest.raises(Unavailable, match="nobody"):
        await bus.request("nobody.here", b"", 5)


async def test_request_whose_answer_fails_is_unavailable(connect: Connect) -> None:
    bus = await connect()

    async def answer(payload: bytes) -> bytes:
        raise RuntimeError("no")

    await bus.reply("broken", answer)
    with pytest.raises(Unavailable):
        await bus.request("broken", b"", 0.05)


async def test_closed_bus_refuses_and_closes_twice(connect: Connect) -> None:
    bus = await connect()
    await bus.close()
    await bus.close()
    with pytest.raises(Unavailable):
        await bus.publish("late", b"")
    with pytest.raises(Unavailable):
        await bus.subscribe("late", Inbox())
