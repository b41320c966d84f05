"""An engine that is refused for what it is waits long; one that stops in order frightens nobody."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from shoal.worker.v1 import pipeline_pb2
from shoal_worker_gpu.assignment import Assignment
from shoal_worker_gpu.metrics import AgentMetrics
from shoal_worker_gpu.order import Order
from shoal_worker_gpu.progress import STEP_HANGS
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.supervise import SupervisedEngine

from .stand_in import STAND_IN, FastClock

WAIT_S = 50
POLL_S = 0.5


class PausesClock(FastClock):
    """Tells which pauses between two lives were begun; polls are as short or shorter."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(self, delay_s: float) -> None:
        if delay_s > POLL_S:
            self.pauses.put_nowait(delay_s)
        await super().sleep(delay_s)


class Supervised:
    def __init__(self, folder: Path, clock: FastClock) -> None:
        order = Order(
            node_id="w",
            assignment=Assignment("m", 0, 3),
            threads=1,
            ready_file=folder / "engine.json",
            settings=Settings(restart_backoff_max_s=8.0),
            token="t0ken",
            agent_pid=os.getpid(),
        )
        self.changed = asyncio.Event()
        self.engine = SupervisedEngine(
            order, clock, AgentMetrics(CollectorRegistry()), self.changed.set, STAND_IN
        )

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until a change tells what is hoped for."""
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                self.changed.clear()
                await self.changed.wait()

    async def until_ready(self) -> None:
        await self.until(lambda: self.engine.status.state == pipeline_pb2.ENGINE_STATE_READY)


@asynccontextmanager
async def supervised(folder: Path, clock: FastClock) -> AsyncIterator[Supervised]:
    found = Supervised(folder, clock)
    task = asyncio.create_task(found.engine.run())
    try:
        yield found
    finally:
        await found.engine.stop(5.0)
        async with asyncio.timeout(WAIT_S):
            await task


def says(folder: Path, **fields: object) -> None:
    written = folder / "m.json.new"
    written.write_text(json.dumps(fields))
    written.replace(folder / "m.json")


@pytest.mark.parametrize(
    ("detail", "pause_s"),
    [
        ("MODEL_DOES_NOT_FIT: 7000 MiB of weights, 5000 MiB are free", 8.0),
        ("UNTRUSTED_CHECKPOINT: a pickle", 8.0),
        ("UNKNOWN_MODEL: nobody imported it yet", 1.0),
        ("UNAVAILABLE: the shard-store is away", 1.0),
        ("INTERNAL: RuntimeError", 1.0),
    ],
)
async def test_only_what_may_pass_is_tried_again_soon(
    tmp_path: Path, detail: str, pause_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The second pause: the first of a series is as short as a poll."""
    clock = PausesClock()
    says(tmp_path, state="ENGINE_STATE_FAILED", detail=detail)
    async with supervised(tmp_path, clock) as found, asyncio.timeout(WAIT_S):
        assert await clock.pauses.get() == pause_s
        assert found.engine.status.state == pipeline_pb2.ENGINE_STATE_FAILED
        assert found.engine.status.detail == detail
    died = next(record for record in caplog.records if record.message == "engine died")
    said = {name: vars(died)[name] for name in ("model", "layers", "detail")}
    assert said == {"model": "m", "layers": "0:3", "detail": detail}


async def test_an_engine_that_hangs_may_go_on(tmp_path: Path) -> None:
    async with supervised(tmp_path, FastClock()) as found, asyncio.timeout(WAIT_S):
        await found.until_ready()
        pid = found.engine.pid
        says(tmp_path, state="ENGINE_STATE_FAILED", detail=STEP_HANGS)
        await found.until(lambda: found.engine.status.detail == STEP_HANGS)
        says(tmp_path, state="ENGINE_STATE_READY")
        await found.until_ready()
        assert found.engine.pid == pid


async def test_an_engine_that_hangs_for_long_is_replaced(tmp_path: Path) -> None:
    async with supervised(tmp_path, FastClock()) as found, asyncio.timeout(WAIT_S):
        await found.until_ready()
        pid = found.engine.pid
        says(tmp_path, state="ENGINE_STATE_FAILED", detail=STEP_HANGS)
        await found.until(lambda: found.engine.memory_bytes == 0)
        says(tmp_path, state="ENGINE_STATE_READY")
        await found.until_ready()
        assert found.engine.pid != pid


async def test_an_engine_that_is_asked_for_again_does_not_wait(tmp_path: Path) -> None:
    clock = PausesClock()
    says(tmp_path, state="ENGINE_STATE_FAILED", detail="UNTRUSTED_CHECKPOINT: a pickle")
    async with supervised(tmp_path, clock) as found, asyncio.timeout(WAIT_S):
        await clock.pauses.get()
        says(tmp_path, state="ENGINE_STATE_READY")
        found.engine.retry()
        assert found.engine.status.state == pipeline_pb2.ENGINE_STATE_LOADING
        await found.until_ready()
        assert found.engine.refused_at_s is None


async def test_an_orderly_stop_is_not_taken_for_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(tmp_path, FastClock()) as found:
        await found.until_ready()
    assert not [record.message for record in caplog.records if record.levelname == "WARNING"]
