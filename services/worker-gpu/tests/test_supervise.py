"""Engine children are watched, started again with growing pauses, and never outlive their agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from shoal.worker.v1 import pipeline_pb2
from shoal_common.clock import Clock, SystemClock
from shoal_common.testing import FakeClock, eventually, start_nats
from shoal_worker_gpu.assignment import Assignment
from shoal_worker_gpu.metrics import AgentMetrics
from shoal_worker_gpu.order import Order
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.supervise import SupervisedEngine

WAIT_S = 50
READY = pipeline_pb2.ENGINE_STATE_READY
FAILED = pipeline_pb2.ENGINE_STATE_FAILED
# Answers like an engine, without its minutes of loading; says FAILED while the file `sick` exists.
ENGINE = """
import sys
from pathlib import Path
from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.app import die_with_parent, run_service, until_signal, write_ready_file
from shoal_common.rpc import RpcServer
from shoal_worker_gpu.order import Order

order = Order.parse(Path(sys.argv[1]).read_text())
die_with_parent(order.agent_pid)

class Engine(stage_pb2_grpc.StageServiceServicer):
    async def GetEngine(self, request, context):
        is_sick = order.ready_file.with_name("sick").exists()
        state = pipeline_pb2.ENGINE_STATE_FAILED if is_sick else pipeline_pb2.ENGINE_STATE_READY
        return stage_pb2.GetEngineResponse(engine=pipeline_pb2.EngineStatus(state=state))

async def main():
    server = RpcServer("127.0.0.1:0", token=order.token, drain_timeout_s=0)
    server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, Engine())
    write_ready_file(order.ready_file, grpc=await server.start())
    await until_signal()
    await server.stop()

run_service(main)
"""
FALSE = ("/bin/sh", "-c", "exit 3")


class Watched:
    """A supervised engine, and what its agent is told of it."""

    def __init__(self, folder: Path, program: Sequence[str], clock: Clock, max_s: float) -> None:
        self.folder = folder
        order = Order(
            node_id="w",
            assignment=Assignment("m", 0, 3),
            threads=1,
            ready_file=folder / "engine.json",
            settings=Settings(restart_backoff_max_s=max_s),
            token="t0ken",
            agent_pid=os.getpid(),
        )
        self.registry = CollectorRegistry()
        self._changed = asyncio.Event()
        self.engine = SupervisedEngine(
            order, clock, AgentMetrics(self.registry), self._changed.set, program
        )

    @property
    def restart_count(self) -> float:
        name = "shoal_worker_gpu_agent_engine_restarts_total"
        return self.registry.get_sample_value(name) or 0.0

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until a change tells what is hoped for."""
        async with asyncio.timeout(WAIT_S):
            while not is_so():
                self._changed.clear()
                await self._changed.wait()

    async def until_state(self, state: pipeline_pb2.EngineState) -> None:
        await self.until(lambda: self.engine.status.state == state)


@asynccontextmanager
async def watched(
    folder: Path, program: Sequence[str], clock: Clock | None = None, max_s: float = 30.0
) -> AsyncIterator[Watched]:
    found = Watched(folder, program, clock or SystemClock(), max_s)
    task = asyncio.create_task(found.engine.run())
    try:
        yield found
    finally:
        await found.engine.stop(5.0)
        async with asyncio.timeout(WAIT_S):
            await task
    assert not is_alive(found.engine.pid)


@pytest.fixture
def engine_program(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "engine.py"
    path.write_text(ENGINE)
    return (sys.executable, str(path))


def is_alive(pid: int) -> bool:
    """True for a process that runs; one that nobody has waited for yet is dead."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until_dead(pid: int) -> None:
    await eventually(lambda: not is_alive(pid), WAIT_S)


class PausesClock(FakeClock):
    """Tells which pauses were asked for; the supervisor's polls are shorter."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(self, delay_s: float) -> None:
        if delay_s >= 0.5:
            self.pauses.put_nowait(delay_s)
        await super().sleep(delay_s)


async def test_pauses_between_starts_double_up_to_their_bound(tmp_path: Path) -> None:
    clock = PausesClock()
    async with watched(tmp_path, FALSE, clock, max_s=3.0) as found, asyncio.timeout(WAIT_S):
        for start_count, pause_s in enumerate((0.5, 1.0, 2.0, 3.0, 3.0), start=1):
            assert await clock.pauses.get() == pause_s
            assert found.engine.status.state == FAILED
            assert "code 3" in found.engine.status.detail
            assert found.restart_count == start_count
            await clock.advance(pause_s)


async def test_a_killed_engine_is_beaten_as_failed_and_comes_back(
    tmp_path: Path, engine_program: tuple[str, ...]
) -> None:
    async with watched(tmp_path, engine_program) as found:
        await found.until_state(READY)
        first = found.engine.pid
        os.kill(first, signal.SIGKILL)
        await found.until_state(FAILED)
        assert f"code {-signal.SIGKILL}" in found.engine.status.detail
        await found.until_state(READY)
        assert found.engine.pid != first
        assert found.restart_count == 1
    assert found.engine.status.state == FAILED


async def test_an_engine_that_gives_up_is_replaced(
    tmp_path: Path, engine_program: tuple[str, ...]
) -> None:
    async with watched(tmp_path, engine_program) as found:
        await found.until_state(READY)
        first = found.engine.pid
        (tmp_path / "sick").touch()
        await found.until(lambda: not is_alive(first))
        (tmp_path / "sick").unlink()
        await found.until_state(READY)
        assert found.engine.pid != first


async def test_a_silent_engine_is_not_beaten_as_ready(
    tmp_path: Path, engine_program: tuple[str, ...]
) -> None:
    async with watched(tmp_path, engine_program) as found:
        await found.until_state(READY)
        os.kill(found.engine.pid, signal.SIGSTOP)
        await found.until_state(FAILED)
        assert "does not answer" in found.engine.status.detail
        os.kill(found.engine.pid, signal.SIGCONT)
        await found.until_state(READY)
        assert found.restart_count == 0


async def test_an_order_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """It holds the fleet token."""
    async with watched(tmp_path, FALSE, FakeClock()) as found:
        await found.until_state(FAILED)
        assert (tmp_path / "engine.order").stat().st_mode & 0o777 == 0o600


async def test_a_stop_that_comes_while_the_process_is_being_made_ends_it(
    tmp_path: Path, engine_program: tuple[str, ...]
) -> None:
    async with watched(tmp_path, engine_program) as found:
        while not (tmp_path / "engine.order").exists():  # noqa: ASYNC110 turns of the loop
            await asyncio.sleep(0)
        assert found.engine.pid == 0
        await found.engine.stop(5.0)


async def test_a_stop_during_a_pause_starts_nothing_more(tmp_path: Path) -> None:
    async with watched(tmp_path, FALSE, FakeClock()) as found:
        await found.until_state(FAILED)
        pid = found.engine.pid
    assert found.engine.pid == pid


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real program, with an engine that will wait for a shard-store that is not there."""
    nats = start_nats(tmp_path, "t0ken")
    settings = {
        "SHOAL_DATA_DIR": str(tmp_path),
        "SHOAL_NATS_URL": nats.url,
        "SHOAL_FLEET_TOKEN": "t0ken",
        "SHOAL_WORKER_GPU_NODE_ID": "w",
        "SHOAL_WORKER_GPU_LOAD": "m",
        "SHOAL_WORKER_GPU_SHARD_STORE_ADDRESS": "127.0.0.1:1",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "shoal_worker_gpu"],
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.wait()
        nats.stop()


async def engine_pid(agent: subprocess.Popen[bytes]) -> int:
    """The agent's first child, as soon as there is one."""
    children = await eventually(psutil.Process(agent.pid).children, WAIT_S)
    return children[0].pid


async def test_an_engine_dies_with_an_agent_killed_while_it_was_starting(
    agent: subprocess.Popen[bytes],
) -> None:
    """The child is still importing when its parent goes, and cannot have asked the kernel yet."""
    pid = await engine_pid(agent)
    agent.kill()
    await until_dead(pid)


async def test_an_engine_dies_with_its_agent(
    agent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    await engine_pid(agent)
    folder = tmp_path / "worker" / "w"
    ready = await eventually(lambda: list(folder.glob("engine-*.json")), WAIT_S)
    pid = int(json.loads(ready[0].read_text())["pid"])
    assert is_alive(pid)
    agent.kill()
    await until_dead(pid)


async def test_an_agent_told_to_stop_leaves_nothing_behind(agent: subprocess.Popen[bytes]) -> None:
    pid = await engine_pid(agent)
    agent.terminate()
    assert await asyncio.to_thread(agent.wait, WAIT_S) == 0
    assert not is_alive(pid)
