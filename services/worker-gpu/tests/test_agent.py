"""Engines come when they are asked for, and leave when nobody needs them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from shoal.shard_store.v1.announcement_pb2 import ModelAnnouncement
from shoal.worker.v1 import pipeline_pb2, worker_pb2
from shoal_common.host import host_id
from shoal_common.ids import Incarnation, NodeId
from shoal_worker_gpu.agent import Agent
from shoal_worker_gpu.agent_rpc import WorkerRpc
from shoal_worker_gpu.assignment import Assignment
from shoal_worker_gpu.metrics import AgentMetrics
from shoal_worker_gpu.settings import Settings

from .stand_in import STAND_IN, FastClock

WAIT_S = 50
MIB = 1 << 20
FIRST, SECOND = Assignment("first"), Assignment("second")


class Machine:
    """An agent whose engines say what the test wrote down."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.free_bytes = 1000 * MIB
        self.announced: tuple[str, ...] = ()
        self.beats: list[pipeline_pb2.WorkerBeat] = []
        self._changed = asyncio.Event()
        registry = CollectorRegistry()
        self._metrics = AgentMetrics(registry)
        self.agent = Agent(
            NodeId("w"),
            Incarnation("i"),
            Settings(**settings),
            FastClock(),
            self._metrics,
            folder,
            program=STAND_IN,
            free_memory=lambda: self.free_bytes,
        )
        self.agent.on_change = self._note

    def _note(self) -> None:
        self.beats.append(self.agent.beat())
        self._changed.set()

    def says(self, model: str, **fields: Any) -> None:
        """From the next question on."""
        path = self.folder / f"{model}.json"
        path.with_suffix(".tmp").write_text(json.dumps(fields))
        path.with_suffix(".tmp").replace(path)

    def announce(self, *models: str) -> None:
        """Now, and again and again."""
        self.announced = models
        for model in models:
            self.agent.stock.hear(ModelAnnouncement(model=model).SerializeToString())

    async def go_on_announcing(self) -> None:
        while True:
            await FastClock().sleep(2)
            self.announce(*self.announced)

    async def load(self, model: str, memory_bytes: int = 0) -> pipeline_pb2.EngineStatus:
        request = worker_pb2.LoadRequest(request_id="r", model=model, memory_bytes=memory_bytes)
        rpc = WorkerRpc(self.agent, self._metrics)
        response = await rpc.Load(request, None)  # type: ignore[arg-type]
        return response.engine

    def state(self, model: str) -> str:
        """The newest of the model's engines; `gone` without any."""
        found = [e for e in self.agent.beat().engines if e.model == model]
        if not found:
            return "gone"
        return pipeline_pb2.EngineState.Name(found[0].state).removeprefix("ENGINE_STATE_").lower()

    def links(self) -> dict[str, int]:
        return {link.node_id: link.rtt_us for link in self.agent.beat().links}

    def states(self) -> dict[str, str]:
        return {engine.model: self.state(engine.model) for engine in self.agent.beat().engines}

    async def until(self, is_so: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                while not is_so():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as err:
            raise AssertionError(f"the machine stays at {self.agent.beat().engines}") from err

    async def until_states(self, **states: str) -> None:
        await self.until(lambda: self.states() == states)


@asynccontextmanager
async def machine_of(folder: Path, **settings: Any) -> AsyncIterator[Machine]:
    machine = Machine(folder, settings)
    tasks = [
        asyncio.create_task(machine.agent.watch_idle()),
        asyncio.create_task(machine.go_on_announcing()),
    ]
    try:
        yield machine
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(WAIT_S):
            await machine.agent.close()
    assert not machine.agent.beat().engines


async def test_the_least_recently_used_leaves_for_a_model_that_is_asked_for(tmp_path: Path) -> None:
    async with machine_of(tmp_path) as machine:
        machine.announce("first", "second", "third")
        machine.says("second", idle_ms="0")
        await machine.load("first")
        await machine.load("second")
        await machine.until_states(first="ready", second="ready")
        taken = {e.model: e.memory_bytes for e in machine.agent.beat().engines}
        assert all(taken.values())
        machine.free_bytes = 0
        await machine.load("third", memory_bytes=MIB)
        await machine.until_states(second="ready", third="ready")
        assert any(
            ("first", pipeline_pb2.ENGINE_STATE_DRAINING) in [(e.model, e.state) for e in b.engines]
            for b in machine.beats
        )


async def test_an_engine_at_work_never_leaves(tmp_path: Path) -> None:
    async with machine_of(tmp_path, idle_model_s=1) as machine:
        machine.announce("first", "second")
        machine.says("first", running_count=1, idle_ms="0")
        await machine.load("first")
        await machine.until_states(first="ready")
        machine.free_bytes = 0
        await machine.load("second", memory_bytes=MIB)
        await machine.until_states(first="ready", second="ready")
        machine.says("first", running_count=0)
        await machine.until(lambda: not machine.states())


async def test_what_is_idle_for_long_leaves_and_comes_back(tmp_path: Path) -> None:
    async with machine_of(tmp_path, idle_model_s=5) as machine:
        machine.agent.load_configured([FIRST, Assignment("part", 0, 3), SECOND])
        machine.announce("first", "part")
        await machine.until(lambda: "first" not in machine.states())
        assert (await machine.load("first")).state == pipeline_pb2.ENGINE_STATE_LOADING
        await machine.until(lambda: machine.state("first") == "ready")
        # Neither a part of a model nor one that nobody announces would come back by itself.
        said = {e.model: e.is_pinned for e in machine.agent.beat().engines}
        assert said == {"part": True, "second": True, "first": False}


async def test_what_is_loaded_at_the_start_may_be_pinned_for_good(tmp_path: Path) -> None:
    async with machine_of(tmp_path, idle_model_s=1, pin_loaded="always") as machine:
        machine.announce("first", "second")
        machine.agent.load_configured([FIRST])
        await machine.load("second")
        await machine.until(lambda: machine.state("second") == "ready")
        await machine.until(lambda: machine.state("second") == "gone")
        await machine.until_states(first="ready")


async def test_a_model_asked_for_while_it_leaves_stays_or_comes_back(tmp_path: Path) -> None:
    async with machine_of(tmp_path) as machine:
        await machine.load("first")
        await machine.until_states(first="ready")
        leaving = asyncio.create_task(machine.agent.unload(FIRST, 1.0))
        await machine.until_states(first="draining")
        await machine.load("first")
        await machine.until_states(first="ready")
        await leaving


async def test_a_model_that_does_not_fit_pushes_idle_ones_out_one_by_one(tmp_path: Path) -> None:
    async with machine_of(tmp_path) as machine:
        machine.announce("first", "second")
        await machine.load("first")
        await machine.until_states(first="ready")
        refusal = "MODEL_DOES_NOT_FIT: 7000 MiB of weights, 5000 MiB are free"
        machine.says("second", state="ENGINE_STATE_FAILED", detail=refusal)
        await machine.load("second", memory_bytes=MIB)
        await machine.until_states(second="failed")
        details = [e.detail for e in machine.agent.beat().engines]
        assert details == [refusal]


async def test_what_was_refused_is_shown_with_its_reason_and_then_dropped(tmp_path: Path) -> None:
    async with machine_of(tmp_path) as machine:
        machine.announce("first")
        machine.says("first", state="ENGINE_STATE_FAILED", detail="UNTRUSTED_CHECKPOINT: a pickle")
        await machine.load("first")
        await machine.until(lambda: machine.state("first") == "failed")
        assert machine.agent.beat().engines[0].detail == "UNTRUSTED_CHECKPOINT: a pickle"
        machine.says("first")
        assert (await machine.load("first")).state == pipeline_pb2.ENGINE_STATE_LOADING
        await machine.until_states(first="ready")
        machine.says("first", state="ENGINE_STATE_FAILED", detail="UNTRUSTED_CHECKPOINT: a pickle")
        await machine.until(lambda: not machine.states())


async def test_a_part_that_a_router_chose_may_leave_again(tmp_path: Path) -> None:
    async with machine_of(tmp_path, idle_model_s=5) as machine:
        machine.announce("first")
        machine.agent.load(Assignment("first", 0, 3))
        await machine.until_states(first="ready")
        assert not machine.agent.beat().engines[0].is_pinned
        await machine.until(lambda: not machine.states())


async def test_nothing_leaves_a_locked_machine_for_being_idle(tmp_path: Path) -> None:
    async with machine_of(tmp_path, idle_model_s=1e-6, is_locked=True) as machine:
        machine.announce("first")
        await machine.load("first")
        await machine.until_states(first="ready")
        await machine.agent._end_outlived()
        assert machine.states() == {"first": "ready"}
        assert machine.agent.beat().is_locked


async def test_a_beat_says_where_the_machine_stands_and_how_far_others_are(tmp_path: Path) -> None:
    async with machine_of(tmp_path, reach="lan", fleet={"region": "DE"}) as machine:
        machine.says("first", links=[{"node_id": "near", "rtt_us": 300}])
        machine.says(
            "second", links=[{"node_id": "near", "rtt_us": 200}, {"node_id": "w", "rtt_us": 1}]
        )
        await machine.load("first")
        await machine.load("second")
        await machine.until_states(first="ready", second="ready")
        await machine.until(lambda: machine.links() == {"near": 200})
        beat = machine.agent.beat()
        assert (beat.host_id, beat.region) == (host_id(), "DE")
        assert beat.reach == pipeline_pb2.REACH_LAN
        assert (beat.memory_max_bytes, beat.is_locked) == (0, False)


async def test_engines_together_take_no_more_than_they_may(tmp_path: Path) -> None:
    async with machine_of(tmp_path, memory_max_mb=300) as machine:
        assert machine.agent.beat().memory_max_bytes == 300 * MIB
        assert machine.agent.beat().memory_free_bytes == 300 * MIB
        await machine.load("first")
        await machine.until_states(first="ready")
        taken = machine.agent.beat().engines[0].memory_bytes
        assert machine.agent.beat().memory_free_bytes <= 300 * MIB - taken + MIB
        await machine.load("second")
        await machine.until_states(first="ready", second="ready")
        allowed = {e.model: e.weight_bytes for e in machine.agent.beat().engines}
        assert allowed["first"] == 300 * MIB
        assert 0 < allowed["second"] < 300 * MIB
        machine.free_bytes = 5 * MIB
        assert machine.agent.beat().memory_free_bytes == 5 * MIB
