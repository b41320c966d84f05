"""Heartbeats on a real NATS: they arrive, count up, say goodbye, and outlive the server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from shoal.worker.v1 import pipeline_pb2
from shoal_common.bus import NatsBus
from shoal_common.testing import NatsProcess, eventually, start_nats
from shoal_worker_gpu.beat import BeatThread
from shoal_worker_gpu.metrics import AgentMetrics

TOKEN = "t0ken"
NODE = "worker-a"
WAIT_S = 20
Snapshot = Callable[[], pipeline_pb2.WorkerBeat]


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsProcess]:
    with start_nats(tmp_path, TOKEN) as process:
        yield process


class Beats:
    """What a router would hear."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[pipeline_pb2.WorkerBeat] = asyncio.Queue()

    async def on_message(self, subject: str, payload: bytes) -> None:
        assert subject == f"shoal.worker.{NODE}.beat"
        self._queue.put_nowait(pipeline_pb2.WorkerBeat.FromString(payload))

    async def next(self) -> pipeline_pb2.WorkerBeat:
        async with asyncio.timeout(WAIT_S):
            return await self._queue.get()

    async def until(self, is_so: Callable[[pipeline_pb2.WorkerBeat], bool]) -> None:
        while not is_so(await self.next()):
            pass


@asynccontextmanager
async def listening(nats: NatsProcess) -> AsyncIterator[Beats]:
    bus = await NatsBus.connect(nats.url, token=TOKEN)
    beats = Beats()
    await bus.subscribe("shoal.worker.*.beat", beats.on_message)
    try:
        yield beats
    finally:
        await bus.close()


@asynccontextmanager
async def beating(
    nats: NatsProcess, *, interval_s: float = 0.02, snapshot: Snapshot | None = None
) -> AsyncIterator[tuple[BeatThread, CollectorRegistry]]:
    registry = CollectorRegistry()
    thread = BeatThread(
        nats.url, TOKEN, NODE, interval_s, snapshot or plain_beat, AgentMetrics(registry)
    )
    thread.start()
    try:
        yield thread, registry
    finally:
        await asyncio.to_thread(thread.stop)


def plain_beat() -> pipeline_pb2.WorkerBeat:
    return pipeline_pb2.WorkerBeat(node_id=NODE, incarnation="first")


def counted(registry: CollectorRegistry, outcome: str) -> float:
    name = "shoal_worker_gpu_agent_beats_total"
    return registry.get_sample_value(name, {"outcome": outcome}) or 0.0


async def test_beats_arrive_and_their_sequence_grows(nats: NatsProcess) -> None:
    async with listening(nats) as beats, beating(nats):
        heard = [await beats.next() for _ in range(4)]
    assert [beat.node_id for beat in heard] == [NODE] * 4
    for earlier, later in itertools.pairwise(heard):
        assert later.sequence == earlier.sequence + 1
    assert not any(beat.is_leaving for beat in heard)


async def test_a_change_is_told_at_once(nats: NatsProcess) -> None:
    """The interval is longer than the test may take."""
    async with listening(nats) as beats, beating(nats, interval_s=600) as (thread, _):
        first = await beats.next()
        thread.beat_now()
        assert (await beats.next()).sequence == first.sequence + 1


async def test_an_orderly_stop_says_goodbye_once_and_last(nats: NatsProcess) -> None:
    async with listening(nats) as beats:
        async with beating(nats, interval_s=600):
            assert not (await beats.next()).is_leaving
        assert (await beats.next()).is_leaving
        bus = await NatsBus.connect(nats.url, token=TOKEN)
        await bus.publish(f"shoal.worker.{NODE}.beat", b"")
        assert await beats.next() == pipeline_pb2.WorkerBeat(), "nothing comes behind the goodbye"
        await bus.close()


async def test_beats_go_on_after_nats_was_killed_and_started_again(nats: NatsProcess) -> None:
    async with beating(nats):
        async with listening(nats) as beats:
            before = await beats.next()
        await asyncio.to_thread(nats.kill)
        await asyncio.to_thread(nats.start)
        async with listening(nats) as beats:
            await beats.until(lambda beat: beat.sequence > before.sequence)


async def test_an_outage_that_fills_the_buffer_does_not_silence_the_worker(
    nats: NatsProcess,
) -> None:
    """The client keeps 2 MiB for a server that is away; these beats fill it in five."""
    padding = "x" * 500_000

    def wide_beat() -> pipeline_pb2.WorkerBeat:
        return pipeline_pb2.WorkerBeat(node_id=NODE, device=padding)

    async with beating(nats, snapshot=wide_beat) as (_, registry):
        await eventually(lambda: counted(registry, "sent") > 0)
        await asyncio.to_thread(nats.kill)
        await eventually(lambda: counted(registry, "failed") >= 2)
        lost_sequence = counted(registry, "failed") + counted(registry, "sent")
        await asyncio.to_thread(nats.start)
        async with listening(nats) as beats:
            await beats.until(lambda beat: beat.sequence > lost_sequence)


async def test_a_worker_that_starts_before_nats_beats_when_it_comes(nats: NatsProcess) -> None:
    await asyncio.to_thread(nats.kill)
    async with beating(nats):
        await asyncio.to_thread(nats.start)
        async with listening(nats) as beats:
            assert (await beats.next()).node_id == NODE


async def test_other_news_travel_with_the_beats_in_order(nats: NatsProcess) -> None:
    """The interval is longer than the test may take: posting wakes the thread."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_message(_: str, payload: bytes) -> None:
        heard.put_nowait(payload)

    bus = await NatsBus.connect(nats.url, token=TOKEN)
    await bus.subscribe(f"shoal.worker.{NODE}.kv", on_message)
    async with beating(nats, interval_s=600) as (thread, _):
        for number in range(5):
            thread.post(f"shoal.worker.{NODE}.kv", b"%d" % number)
        async with asyncio.timeout(WAIT_S):
            assert [await heard.get() for _ in range(5)] == [b"%d" % n for n in range(5)]
    await bus.close()


async def test_questions_are_answered_with_what_is_known_now(nats: NatsProcess) -> None:
    known = b"first"
    registry = CollectorRegistry()
    thread = BeatThread(
        nats.url,
        TOKEN,
        NODE,
        600,
        plain_beat,
        AgentMetrics(registry),
        answers={"shoal.worker.a.kv.snapshot": lambda: known},
    )
    thread.start()
    bus = await NatsBus.connect(nats.url, token=TOKEN)
    try:
        await eventually(lambda: counted(registry, "sent") > 0)
        assert await bus.request("shoal.worker.a.kv.snapshot", b"", WAIT_S) == b"first"
        known = b"second"
        assert await bus.request("shoal.worker.a.kv.snapshot", b"", WAIT_S) == b"second"
    finally:
        await bus.close()
        await asyncio.to_thread(thread.stop)
