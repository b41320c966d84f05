"""The fakes' own promises, beyond what the contract suites ask."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from shoal.worker.v1 import stage_pb2, stage_pb2_grpc
from shoal_common.errors import DeadlineExceeded, Unavailable
from shoal_common.rpc import translated
from shoal_common.testing import (
    FakeClock,
    FakeEngine,
    MemoryRpc,
    eventually,
    next_token,
    start_nats,
)
from shoal_common.testing.bus import matches
from shoal_common.testing.clock import settle


async def test_sleepers_wake_in_the_order_of_their_moments() -> None:
    clock = FakeClock()
    woken: list[tuple[str, float]] = []
    start = clock.monotonic()

    async def sleeper(name: str, *delays: float) -> None:
        for delay in delays:
            await clock.sleep(delay)
            woken.append((name, clock.monotonic() - start))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("late", 3))
        group.create_task(sleeper("twice", 1, 1))
        await clock.advance(2.5)
        assert woken == [("twice", 1), ("twice", 2)]
        assert clock.sleeper_count == 1
        await clock.advance(0.5)
    assert woken[-1] == ("late", 3)


async def test_time_jumps_only_where_nobody_waits() -> None:
    clock = FakeClock()
    start = clock.monotonic()
    clock.jump(2.5)
    assert clock.monotonic() - start == 2.5
    sleeper = asyncio.create_task(clock.sleep(1))
    await settle()
    with pytest.raises(AssertionError, match="use advance"):
        clock.jump(1)
    sleeper.cancel()


async def test_cancelled_sleeper_is_forgotten() -> None:
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    await clock.advance(2)
    assert task.cancelled()
    assert clock.sleeper_count == 0


async def test_both_hands_of_the_clock_move_together() -> None:
    clock = FakeClock()
    before = clock.time(), clock.monotonic()
    await clock.advance(90)
    assert (clock.time() - before[0], clock.monotonic() - before[1]) == (90, 90)


def test_next_token_depends_on_every_id_and_on_their_order() -> None:
    vocab = 1 << 30
    answers = {next_token(ids, vocab) for ids in ([1, 2, 3], [1, 3, 2], [1, 2], [0, 1, 2, 3], [])}
    assert len(answers) == 5
    assert next_token([1, 2, 3], vocab) == 639285879


def test_steps_of_any_size_give_the_same_tokens() -> None:
    engine = FakeEngine(vocab_size=50)
    expected = engine.generate([4, 5, 6], 3)
    engine.step(1, 0, [4])
    engine.step(2, 0, [9, 9])
    token = engine.step(1, 1, [5, 6])
    got = [token]
    for position in (3, 4):
        token = engine.step(1, position, [token])
        got.append(token)
    assert got == expected
    engine.free(1)
    engine.free(2)
    assert engine.kv_tokens == 0


def test_step_at_a_wrong_position_is_a_fault() -> None:
    engine = FakeEngine()
    engine.step(1, 0, [1, 2])
    with pytest.raises(AssertionError, match="2 tokens are held"):
        engine.step(1, 3, [3])


@pytest.mark.parametrize(
    ("pattern", "subject", "is_match"),
    [("a.*", "a.b", True), ("a.*", "a", False), ("*.b", "a.b", True), (">", "a.b.c", True)],
)
def test_wildcards(pattern: str, subject: str, is_match: bool) -> None:
    assert matches(pattern, subject) is is_match


class Silent(stage_pb2_grpc.StageServiceServicer):
    """Never answers."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.ended = asyncio.Event()

    async def GetEngine(self, request: Any, context: Any) -> Any:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def test_deadlines_of_the_memory_transport_run_on_the_clock() -> None:
    clock = FakeClock()
    network = MemoryRpc(clock)
    stage = Silent()
    server = network.server("stage:0")
    server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, stage)
    stub: Any = stage_pb2_grpc.StageServiceStub(network.channel(await server.start()).channel)

    async def call() -> None:
        with translated():
            await stub.GetEngine(stage_pb2.GetEngineRequest(), timeout=3600)

    task = asyncio.create_task(call())
    await stage.entered.wait()
    await clock.advance(3599)
    assert not task.done()
    await clock.advance(1)
    with pytest.raises(DeadlineExceeded):
        await task
    assert stage.ended.is_set()
    await server.stop()


async def test_killed_server_fails_its_calls_and_its_address_is_free() -> None:
    network = MemoryRpc()
    stage = Silent()
    server = network.server("stage:1")
    server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, stage)
    stub: Any = stage_pb2_grpc.StageServiceStub(network.channel(await server.start()).channel)
    call = stub.GetEngine(stage_pb2.GetEngineRequest())
    await stage.entered.wait()
    server.kill()
    with pytest.raises(Unavailable), translated():
        await call
    await stage.ended.wait()
    async with network.server("stage:1"):
        pass


def test_nats_keeps_its_token_private_and_ends(tmp_path: Path) -> None:
    with start_nats(tmp_path, "secret-token") as nats:
        assert stat.S_IMODE((tmp_path / "nats.conf").stat().st_mode) == 0o600
        assert nats._process is not None
        pid = nats._process.pid
        arguments = Path(f"/proc/{pid}/cmdline")
        if arguments.exists():
            assert b"secret-token" not in arguments.read_bytes()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_eventually_gives_the_first_true_answer() -> None:
    answers = iter([0, None, "", [7], [8]])
    assert await eventually(lambda: next(answers)) == [7]


async def test_eventually_gives_up() -> None:
    with pytest.raises(TimeoutError):
        await eventually(lambda: False, within_s=0.01)
