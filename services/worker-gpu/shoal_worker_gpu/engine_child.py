"""The engine child: fetches its layers, loads them, and serves StageService until told to stop.

Owns the wiring of one engine process. Its order (assignment, settings, node) comes as a JSON file
from the agent, which supervises it; the child dies with the agent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from shoal.worker.v1 import pipeline_pb2, stage_pb2_grpc
from shoal_common.app import die_with_parent, run_service, until_signal, write_ready_file
from shoal_common.clock import Clock, SystemClock
from shoal_common.errors import ShoalError
from shoal_common.ids import new_incarnation
from shoal_common.log import setup
from shoal_common.metrics import new_registry
from shoal_common.rpc import RpcServer
from shoal_common.side import SideServer
from shoal_worker_gpu.backends.base import Backend
from shoal_worker_gpu.grammars import Grammars
from shoal_worker_gpu.head import Head, HeadLimits
from shoal_worker_gpu.links import LinkPool, Speaker
from shoal_worker_gpu.metrics import EngineMetrics
from shoal_worker_gpu.order import Order
from shoal_worker_gpu.outlet import StageOutlet
from shoal_worker_gpu.progress import STEP_HANGS
from shoal_worker_gpu.reservation import ReservationLimits, Reservations
from shoal_worker_gpu.rpc import Engine, StageRpc
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.shards import LocalModel, ShardClient
from shoal_worker_gpu.stage_core import StageCore
from shoal_worker_gpu.stage_loader import load_stage_of

log = logging.getLogger(__name__)

_LEASE_WATCH_S = 1.0
_DRAIN_POLL_S = 0.05
# Links and results are held open for ever: nobody waits for their end.
_STREAMS_END_S = 0.2


class EngineChild:
    """One engine process from fetching to draining."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._settings = order.settings
        self._clock = SystemClock()
        self._registry = new_registry()
        self._metrics = EngineMetrics(self._registry)
        self._incarnation = new_incarnation()
        self._status = pipeline_pb2.EngineStatus(
            model=order.assignment.model,
            layer_start=order.assignment.layer_start,
            layer_stop=order.assignment.layer_stop,
            state=pipeline_pb2.ENGINE_STATE_FETCHING,
            incarnation=self._incarnation,
            backend="torch_shard",
            block_size_tokens=self._settings.block_size_tokens,
            running_max=running_max(self._settings),
            shares_prefixes=self._settings.prefix_cache_scope == "fleet",
        )
        self._rpc = StageRpc(self._incarnation, self.status)

    def status(self) -> pipeline_pb2.EngineStatus:
        """What the agent puts into its beats."""
        if self._rpc.engine is not None:
            note_load(self._rpc.engine, self._status)
        return self._status

    async def run(self) -> None:
        """Serve until SIGTERM; then let running generations end."""
        side = SideServer(self._settings.side_address, self._registry, self._is_ready)
        server = RpcServer(
            f"{self._settings.engine_host}:0",
            token=self._order.token,
            drain_timeout_s=_STREAMS_END_S,
        )
        server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, self._rpc)
        side_address = await side.start()
        address = await server.start()
        self._status.locator = f"grpc:{self._advertised(address)}"
        write_ready_file(self._order.ready_file, grpc=address, side=side_address)
        serving = asyncio.create_task(self._serve())
        try:
            await until_signal()
            self._status.state = pipeline_pb2.ENGINE_STATE_DRAINING
            if self._rpc.engine is not None:
                await drain(self._rpc.engine, self._settings.drain_timeout_s)
        finally:
            await server.stop()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            if self._rpc.engine is not None:
                await self._rpc.engine.links.close()
            await side.stop()

    def _is_ready(self) -> bool:
        return self._status.state == pipeline_pb2.ENGINE_STATE_READY

    def _advertised(self, address: str) -> str:
        if not self._settings.advertise_host:
            return address
        return f"{self._settings.advertise_host}:{address.rpartition(':')[2]}"

    async def _serve(self) -> None:
        """Fetch, load, compute. A failure is reported in the status and stays there."""
        try:
            model = await self._fetch()
            self._status.state = pipeline_pb2.ENGINE_STATE_LOADING
            # The thread that loads also computes: each thread that calls torch gets a team of
            # helper threads of its own, and two teams wait for each other's cores.
            thread = ThreadPoolExecutor(1, thread_name_prefix="compute")
            loop = asyncio.get_running_loop()
            backend = await loop.run_in_executor(thread, self._load, model)
            await self._compute(backend, thread)
        except ShoalError as err:
            self._fail(err.reason, str(err))
        except asyncio.CancelledError:
            raise
        except Exception as err:
            log.exception("engine failed")
            self._fail("INTERNAL", type(err).__name__)

    def _fail(self, reason: str, detail: str) -> None:
        log.error("engine failed", extra={"reason": reason, "detail": detail})
        self._rpc.engine = None
        self._status.state = pipeline_pb2.ENGINE_STATE_FAILED
        self._status.detail = f"{reason}: {detail}"[:500]

    async def _fetch(self) -> LocalModel:
        settings = self._settings
        assignment = self._order.assignment
        client = ShardClient(
            settings.shard_store_address,
            self._order.token,
            settings.fleet.data_dir / "worker" / "blobs",
            settings.shared_blob_dir,
        )
        layers = (assignment.layer_start, assignment.layer_stop)
        try:
            return await client.fetch(
                assignment.model, None if layers == (0, 0) else layers, self._on_progress
            )
        finally:
            await client.close()

    def _on_progress(self, done: int, total: int) -> None:
        self._status.progress_percent = 100 * done // max(1, total)

    def _load(self, model: LocalModel) -> Backend:
        """Load the stage and say what it is. Raises ModelDoesNotFit and what loading raises."""
        order = self._order
        backend = load_stage_of(model, self._settings, order.threads, order.memory_max_bytes)
        self._status.revision = model.revision
        self._status.layer_start, self._status.layer_stop = model.layers
        self._status.layer_count = backend.layer_count
        self._status.context_length = backend.context_length
        self._status.weight_bytes = backend.weight_bytes
        return backend

    async def _compute(self, backend: Backend, thread: ThreadPoolExecutor) -> None:
        """Wire the loaded engine and run it."""
        engine = build_engine(
            backend,
            self._settings,
            Speaker(
                node_id=self._order.node_id,
                incarnation=self._incarnation,
                token=self._order.token,
                open_timeout_s=self._settings.dial_timeout_s,
                ack_timeout_s=self._settings.ack_timeout_s,
            ),
            self._metrics,
            self._clock,
            thread,
        )
        await engine.core.warm_up()
        self._rpc.engine = engine
        self._status.state = pipeline_pb2.ENGINE_STATE_READY
        log.info("engine ready", extra={"model": self._status.model})
        await run_engine(engine)


def running_max(settings: Settings) -> int:
    """Generations that one head runs at once."""
    return settings.max_running if settings.continuous_batching else 1


def note_load(engine: Engine, status: pipeline_pb2.EngineStatus) -> None:
    """Write into `status` what KV depends on, how much is taken, how fast the engine is, and
    whether it computes at all: one that hangs is not ready until it goes on."""
    _note_hang(engine, status)
    backend = engine.core.backend
    status.kv_format = backend.kv_format
    status.kv_blocks_total = backend.blocks_total
    status.kv_blocks_free = backend.blocks_free
    status.running_count = engine.head.running_count
    status.waiting_count = engine.head.waiting_count
    status.layer_time_us = int(engine.core.pace.decode_us)
    status.head_layers = backend.head_layers
    status.layer_prefill_ns = int(engine.core.pace.prefill_ns)


def _note_hang(engine: Engine, status: pipeline_pb2.EngineStatus) -> None:
    if engine.core.is_hung and status.state == pipeline_pb2.ENGINE_STATE_READY:
        status.state = pipeline_pb2.ENGINE_STATE_FAILED
        status.detail = STEP_HANGS
    elif not engine.core.is_hung and status.detail == STEP_HANGS:
        status.detail = ""
        if status.state == pipeline_pb2.ENGINE_STATE_FAILED:
            status.state = pipeline_pb2.ENGINE_STATE_READY


def head_limits(settings: Settings, context_length: int) -> HeadLimits:
    """Bounds of a head, with the switches that turn its optimisations off."""
    # Where a prompt is cut depends on its neighbours, and its last bits on where it is cut.
    is_chunked = settings.chunked_prefill and not settings.strict_exact
    return HeadLimits(
        running_max=running_max(settings),
        waiting_max=settings.max_waiting,
        prefill_tokens_max=settings.prefill_chunk_tokens
        if is_chunked
        else context_length * settings.max_running,
        prefill_step_factor=settings.prefill_step_factor if is_chunked else math.inf,
        prompts_per_step_max=settings.max_running if settings.batched_prefill else 1,
        lease_s=settings.lease_s,
    )


def build_engine(
    backend: Backend,
    settings: Settings,
    speaker: Speaker,
    metrics: EngineMetrics,
    clock: Clock,
    compute: Executor | None = None,
) -> Engine:
    """The parts of one engine, connected; nothing runs yet."""
    core = StageCore(
        backend,
        speaker.node_id,
        speaker.incarnation,
        clock,
        metrics,
        queue_items_max=settings.step_queue_max,
        row_budget=settings.step_row_budget,
        prefix_ttl_s=settings.session_kv_ttl_s,
        compute=compute,
    )
    outlet = StageOutlet(core)
    links = LinkPool(speaker, outlet, clock)
    limits = head_limits(settings, backend.context_length)
    reservations = Reservations(
        core,
        ReservationLimits(
            grow_blocks=settings.grow_blocks,
            grant_timeout_s=settings.link_timeout_s,
            lease_s=settings.lease_s,
            has_prefix_cache=settings.prefix_cache and not settings.strict_exact,
            are_prefixes_tenants_own=settings.prefix_cache_scope == "tenant",
        ),
    )
    grammars = Grammars(backend)
    head = Head(core, links, speaker, clock, metrics, limits, reservations, grammars)
    core.outlet = outlet
    outlet.connect(links, head)
    return Engine(core, head, outlet, links, grammars)


async def drain(engine: Engine, timeout_s: float) -> None:
    """Admit nothing new and wait until no sequence is left, or the time is up."""
    engine.head.is_draining = True
    clock = SystemClock()
    ends_at = clock.monotonic() + timeout_s
    while len(engine.core.table) and clock.monotonic() < ends_at:
        await clock.sleep(_DRAIN_POLL_S)


async def run_engine(engine: Engine) -> None:
    """Compute and admit until cancelled."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(engine.core.run())
            tasks.create_task(engine.core.watch_leases(_LEASE_WATCH_S))
            tasks.create_task(engine.core.watch_progress())
            tasks.create_task(engine.head.run())
    finally:
        await engine.grammars.close()


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m shoal_worker_gpu.engine_child ORDER.json`: the file is read and removed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    assert len(arguments) == 1, "the agent passes one order file"
    path = Path(arguments[0])
    order = Order.parse(path.read_text())
    path.unlink()
    # By its number: an agent that died while this process was importing is not its parent now.
    die_with_parent(order.agent_pid)
    setup("worker-gpu", order.settings.fleet.log_level, order.settings.fleet.log_format)
    child = EngineChild(order)
    run_service(child.run)


if __name__ == "__main__":
    main()
