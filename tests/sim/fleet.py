"""The processes of one simulated fleet: their starts, deaths and pauses.

Every process is real code of its service, wired as its `app.py` does it. An agent is the only
stand-in: the real one supervises processes of the system; this one asks its engine over the network
as often, with the same patience, and beats as it does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.driving import GrpcRouter, GrpcStages
from shoal_common.errors import ShoalError
from shoal_common.ids import new_incarnation
from shoal_common.rpc import RpcServer, locator, translated
from shoal_common.settings import FleetSettings
from shoal_common.testing.bus import MemoryBus, MemoryHub, Mischief
from shoal_common.testing.rpc import MemoryRpc
from shoal_common.testing.virtual_time import (
    LoopClock,
    VirtualExecutor,
    VirtualLoop,
    in_process,
    tasks_of,
)
from shoal_common.testing.weather import KEEPALIVE_S, Weather
from shoal_gateway.completion import Completer, CompletionLimits
from shoal_gateway.models import ModelDirectory
from shoal_gateway.settings import Settings as GatewaySettings
from shoal_router.app import Router, running
from shoal_router.settings import Settings as RouterSettings
from shoal_router.testing import FakeAgents
from shoal_worker_gpu.backends.base import StepInput
from shoal_worker_gpu.engine_child import build_engine, note_load, run_engine
from shoal_worker_gpu.kv_journal import KvMirror
from shoal_worker_gpu.links import Speaker
from shoal_worker_gpu.metrics import EngineMetrics
from shoal_worker_gpu.rpc import Engine, StageRpc
from shoal_worker_gpu.settings import Settings as WorkerSettings
from tests.sim.model import KV_FORMAT, LayeredBackend
from tests.sim.scenario import CONTEXT_LENGTH, LAYER_COUNT, Scenario, Worker

MODEL = "model"
REVISION = "r1"
ROUTER_ADDRESS = "router:7002"
# As the real agent does.
_POLL_INTERVAL_S = 0.5
_POLL_TIMEOUT_S = 2.0


class Process:
    """One process: born by `start`, ended by `stop` or, without a last word, by `kill`."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.ready = asyncio.Event()
        self.silent_since_s: float | None = None
        """Killed or hung since then; None while it runs."""
        self.is_dead = False
        self._task: asyncio.Task[None] | None = None

    async def main(self) -> None:
        """Everything the process does, until it is cancelled."""
        raise AssertionError("a kind of process says what it does")

    def start(self) -> None:
        with in_process(self.name):
            self._task = self.fleet.loop.create_task(self.main())
        self._task.add_done_callback(self._ended)
        self.fleet.processes[self.name] = self

    def kill(self) -> None:
        """It never runs again, and its connections are reset."""
        self.hang()
        self.is_dead = True
        self.fleet.network.kill(self.name)
        self.fleet.hub.forget(self.name)
        self.fleet.processes.pop(self.name, None)
        # Held until the end: what it held is not cleaned up when a process is killed.
        self.fleet.remains += [self, *tasks_of(self.fleet.loop, self.name)]

    def hang(self) -> None:
        """It runs no more, and its connections stay, until its peers lose their patience."""
        loop = self.fleet.loop
        loop.freeze(self.name)
        self.silent_since_s = self.silent_since_s or loop.time()
        loop.call_later(KEEPALIVE_S, self._lose_patience)

    def resume(self) -> None:
        if not self.is_dead:
            self.silent_since_s = None
            self.fleet.loop.thaw(self.name)

    async def stop(self) -> None:
        """An orderly end."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        """No process ends by itself."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fleet.loop.call_exception_handler(
                {"message": f"{self.name} crashed", "exception": error}
            )

    def _lose_patience(self) -> None:
        since_s = self.silent_since_s
        if since_s is None or self.is_dead:
            return
        if self.fleet.loop.time() - since_s >= KEEPALIVE_S - 0.001:
            self.fleet.network.give_up(self.name)
            self.fleet.loop.call_later(1.0, self._lose_patience)


class RouterProcess(Process):
    def __init__(self, fleet: Fleet, name: str) -> None:
        super().__init__(fleet, name)
        self.router: Router

    async def main(self) -> None:
        settings = RouterSettings(
            listen_address=ROUTER_ADDRESS,
            side_address="",
            drain_timeout_s=0.1,
            in_flight_max=self.fleet.scenario.in_flight_max,
            fleet=FleetSettings(),
        )
        bus = MemoryBus(self.fleet.hub)
        try:
            async with running(
                settings, bus, self.fleet.clock, FakeAgents(), serve=self.fleet.serve
            ) as self.router:
                self.ready.set()
                await asyncio.Event().wait()
        finally:
            await bus.close()

    def gauge(self, name: str) -> float:
        """A metric of the router's own, over all its labels."""
        return sum(
            sample.value
            for metric in self.router.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == f"shoal_router_{name}"
        )


class EngineProcess(Process):
    """One engine child."""

    def __init__(self, fleet: Fleet, worker: Worker, life: int) -> None:
        super().__init__(fleet, f"{worker.name}/engine.{life}")
        self.worker = worker
        self.incarnation = new_incarnation()
        self.locator = ""
        self.engine: Engine
        self.step_factor = 1.0
        """How many times longer a step takes than it should."""
        self.stalled_until_s = 0.0
        self._status = pipeline_pb2.EngineStatus(
            model=MODEL,
            revision=REVISION,
            layer_start=worker.layer_start,
            layer_stop=worker.layer_stop,
            layer_count=LAYER_COUNT,
            state=pipeline_pb2.ENGINE_STATE_LOADING,
            incarnation=self.incarnation,
            backend="torch_shard",
            block_size_tokens=fleet.scenario.block_size_tokens,
            context_length=CONTEXT_LENGTH,
            kv_format=KV_FORMAT,
            running_max=fleet.scenario.running_max,
        )

    async def main(self) -> None:
        self.engine = self._build()
        await self.engine.core.warm_up()
        rpc = StageRpc(self.incarnation, self.status, self.fleet.clock)
        rpc.engine = self.engine
        server = self.fleet.serve(f"{self.worker.name}:0", drain_timeout_s=0.0)
        server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, rpc)
        self.locator = self._status.locator = locator(await server.start())
        self._status.state = pipeline_pb2.ENGINE_STATE_READY
        self.ready.set()
        try:
            await run_engine(self.engine)
        finally:
            await server.stop()
            await self.engine.links.close()

    def status(self) -> pipeline_pb2.EngineStatus:
        note_load(self.engine, self._status)
        return self._status

    def _build(self) -> Engine:
        scenario = self.fleet.scenario
        settings = worker_settings(scenario)
        backend = LayeredBackend(
            self.worker.layer_start,
            self.worker.layer_stop,
            LAYER_COUNT,
            block_count=self.worker.block_count,
            block_size_tokens=scenario.block_size_tokens,
            context_length=CONTEXT_LENGTH,
            now=self.fleet.clock.monotonic,
        )
        speaker = Speaker(
            node_id=self.worker.name,
            incarnation=self.incarnation,
            token="",
            open_timeout_s=settings.link_timeout_s,
            ack_timeout_s=settings.ack_timeout_s,
            dial=self.fleet.network.channel,
        )
        metrics = EngineMetrics(CollectorRegistry())
        compute = VirtualExecutor(self._step_s, random.Random(scenario.random.random()))
        return build_engine(backend, settings, speaker, metrics, self.fleet.clock, compute)

    def _step_s(self, step: StepInput) -> float:
        token_count = sum(row.count for row in step.rows)
        usual_s = self.worker.step_s * (1 + token_count / 50) * self.step_factor
        return max(usual_s, self.stalled_until_s - self.fleet.loop.time())


def worker_settings(scenario: Scenario) -> WorkerSettings:
    return WorkerSettings(
        block_size_tokens=scenario.block_size_tokens,
        prefill_chunk_tokens=scenario.prefill_chunk_tokens,
        grow_blocks=scenario.grow_blocks,
        max_running=scenario.running_max,
        fleet=FleetSettings(),
    )


class AgentProcess(Process):
    """Beats for a worker, with what its engine last said of itself."""

    def __init__(self, fleet: Fleet, worker: Worker, life: int) -> None:
        super().__init__(fleet, f"{worker.name}/agent.{life}")
        self.worker = worker
        self.engine: EngineProcess | None = None
        self._incarnation = new_incarnation()
        self._status: pipeline_pb2.EngineStatus | None = None
        self._links: list[pipeline_pb2.LinkTime] = []
        self._wake = asyncio.Event()
        self._bus: MemoryBus | None = None
        self._posts: list[bytes] = []
        self._kv = KvMirror(worker.name, self._posts.append)

    def engine_started(self, engine: EngineProcess) -> None:
        self.engine = engine

    def engine_died(self) -> None:
        """As the system tells a parent at once."""
        if self.engine is not None:
            self._kv.forget(self.engine.incarnation)
        self.engine = None
        self._note_failed()

    async def main(self) -> None:
        self._bus = MemoryBus(self.fleet.hub)
        subject = f"shoal.worker.{self.worker.name}"

        async def snapshot(_: bytes) -> bytes:
            return self._kv.snapshot().SerializeToString()

        await self._bus.reply(f"{subject}.kv.snapshot", snapshot)
        self.ready.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask_forever())
            tasks.create_task(self._beat_forever(subject))

    async def _beat_forever(self, subject: str) -> None:
        assert self._bus is not None
        sequence = 0
        while True:
            self._wake.clear()
            sequence += 1
            beat = self._beat(sequence)
            await self._bus.publish(f"{subject}.beat", beat.SerializeToString())
            while self._posts:
                await self._bus.publish(f"{subject}.kv", self._posts.pop(0))
            try:
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _beat(self, sequence: int) -> pipeline_pb2.WorkerBeat:
        return pipeline_pb2.WorkerBeat(
            node_id=self.worker.name,
            incarnation=self._incarnation,
            sequence=sequence,
            engines=[] if self._status is None else [self._status],
            host_id=self.worker.name,
            links=self._links,
            is_locked=True,
        )

    async def _ask_forever(self) -> None:
        """Keep the status of whichever engine lives."""
        while True:
            engine = self.engine
            if engine is None or not engine.ready.is_set():
                await self.fleet.clock.sleep(_POLL_INTERVAL_S / 4)
                continue
            channel = self.fleet.network.channel(engine.locator)
            kv_seen = 0
            while self.engine is engine:
                kv_seen = await self._ask(channel.channel, engine, kv_seen)
                await self.fleet.clock.sleep(_POLL_INTERVAL_S)
            await channel.close()

    async def _ask(self, channel: object, engine: EngineProcess, kv_seen: int) -> int:
        stub = stage_pb2_grpc.StageServiceStub(channel)
        request = stage_pb2.GetEngineRequest(kv_sequence_seen=kv_seen)
        try:
            with translated():
                response = await stub.GetEngine(request, timeout=_POLL_TIMEOUT_S)
        except ShoalError:
            if self.engine is engine:
                self._note_failed()
            return kv_seen
        if self.engine is not engine:
            return kv_seen
        changed = self._status is None or self._status.state != response.engine.state
        self._status, self._links = response.engine, list(response.links)
        for changes in response.kv_ranges:
            self._kv.hear(changes)
        kv_seen = response.kv_sequence
        if changed:
            self._wake.set()
        return int(kv_seen)

    def _note_failed(self) -> None:
        self._status = pipeline_pb2.EngineStatus(
            model=MODEL,
            layer_start=self.worker.layer_start,
            layer_stop=self.worker.layer_stop,
            state=pipeline_pb2.ENGINE_STATE_FAILED,
        )
        self._wake.set()


class GatewayProcess(Process):
    """The driver's half of a gateway."""

    def __init__(self, fleet: Fleet, name: str, life: int) -> None:
        super().__init__(fleet, f"{name}/gateway.{life}")
        self.completer: Completer

    async def main(self) -> None:
        settings = GatewaySettings(fleet=FleetSettings())
        channel = self.fleet.network.channel(ROUTER_ADDRESS)
        stages = GrpcStages(
            "", settings.idle_timeout_s, settings.stage_silence_s, self.fleet.network.channel
        )
        router = GrpcRouter(channel, settings.call_timeout_s)
        directory = ModelDirectory(router, self.fleet.clock, MODEL)
        limits = CompletionLimits(
            plan_timeout_s=settings.queue_timeout_s,
            router_wait_s=settings.router_wait_s,
            replan_timeout_s=settings.replan_timeout_s,
            attempts_max=settings.attempts_max,
        )
        watched = self.fleet.watched(router, self)
        self.completer = Completer(watched, stages, directory, limits, self.fleet.clock)
        self.ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            await stages.close()
            await channel.close()


class Fleet:
    """All processes, and the network and bus between them.

    watched: puts an observer between a gateway and its router.
    """

    def __init__(
        self,
        scenario: Scenario,
        loop: VirtualLoop,
        watched: Callable[[GrpcRouter, GatewayProcess], GrpcRouter],
    ) -> None:
        self.scenario = scenario
        self.loop = loop
        self.watched = watched
        self.clock = LoopClock()
        dice = scenario.random
        self.weather = Weather(random.Random(dice.random()), scenario.latency_s)
        self.network = MemoryRpc(self.clock, self.weather)
        mischief = Mischief(
            random.Random(dice.random()),
            late_share=scenario.late_share,
            late_s_max=scenario.late_s_max,
            twice_share=scenario.twice_share,
        )
        self.hub = MemoryHub(self.weather, mischief)
        self.processes: dict[str, Process] = {}
        self.remains: list[object] = []
        """Of the dead."""
        self.servers: list[RpcServer] = []
        self.engines: dict[str, EngineProcess] = {}
        """By incarnation, the dead ones too."""
        self.router: RouterProcess | None = None
        self.gateways: dict[str, GatewayProcess] = {}
        self.agents: dict[str, AgentProcess] = {}
        self._lives: dict[str, int] = {}

    def start(self) -> None:
        self.start_router()
        for worker in self.scenario.workers:
            self.start_worker(worker.name)
        for number in range(self.scenario.gateway_count):
            self.start_gateway(f"gateway{number}")

    def serve(self, address: str, *, token: str = "", drain_timeout_s: float = 10.0) -> RpcServer:
        """A server that is remembered, so that its faults are counted in the end."""
        server = self.network.server(address, token=token, drain_timeout_s=drain_timeout_s)
        self.servers.append(server)
        return server

    def start_router(self) -> None:
        self.router = RouterProcess(self, f"router/router.{self._life('router')}")
        self.router.start()

    def start_gateway(self, name: str) -> None:
        self.gateways[name] = GatewayProcess(self, name, self._life(name))
        self.gateways[name].start()

    def start_worker(self, name: str) -> None:
        """An agent, and its engine."""
        worker = self.worker(name)
        self.agents[name] = AgentProcess(self, worker, self._life(f"{name}/agent"))
        self.agents[name].start()
        self.start_engine(name)

    def start_engine(self, name: str) -> None:
        engine = EngineProcess(self, self.worker(name), self._life(f"{name}/engine"))
        self.engines[engine.incarnation] = engine
        engine.start()
        self.agents[name].engine_started(engine)

    def worker(self, name: str) -> Worker:
        return next(worker for worker in self.scenario.workers if worker.name == name)

    def engine_of(self, name: str) -> EngineProcess | None:
        """The engine that runs on a worker now."""
        return self.agents[name].engine

    def _life(self, name: str) -> int:
        self._lives[name] = self._lives.get(name, 0) + 1
        return self._lives[name]
