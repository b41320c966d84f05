"""The agent: which engines this machine runs, and what it tells the fleet about them.

Owns the set of supervised engines. Does not know tensors or requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import psutil

from shoal.worker.v1 import pipeline_pb2
from shoal_common.clock import Clock
from shoal_common.ids import Incarnation, NodeId
from shoal_worker_gpu.assignment import Assignment
from shoal_worker_gpu.cores import owned_cores
from shoal_worker_gpu.kv_journal import KvMirror
from shoal_worker_gpu.metrics import AgentMetrics
from shoal_worker_gpu.order import Order
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.supervise import SupervisedEngine

log = logging.getLogger(__name__)


class Agent:
    """Engines by assignment; each has a task that keeps it alive."""

    def __init__(
        self,
        node_id: NodeId,
        incarnation: Incarnation,
        settings: Settings,
        clock: Clock,
        metrics: AgentMetrics,
        run_dir: Path,
    ) -> None:
        self.node_id = node_id
        self.locator = ""
        self.on_change: Callable[[], None] = lambda: None
        self.on_kv: Callable[[bytes], None] = lambda _: None
        self.kv = KvMirror(node_id, lambda message: self.on_kv(message))
        self._incarnation = incarnation
        self._settings = settings
        self._token = settings.fleet.secret_token()
        self._clock = clock
        self._metrics = metrics
        self._run_dir = run_dir
        self._engines: dict[Assignment, SupervisedEngine] = {}
        self._tasks: dict[Assignment, asyncio.Task[None]] = {}
        self._cores = owned_cores()

    def load(self, assignment: Assignment, engine_count: int = 1) -> pipeline_pb2.EngineStatus:
        """Start an engine for the assignment; one that is there already stays as it is.

        engine_count: engines that will share this machine's cores.
        """
        engine = self._engines.get(assignment)
        if engine is None:
            engine = SupervisedEngine(
                self._order(assignment, max(engine_count, len(self._engines) + 1)),
                self._clock,
                self._metrics,
                self._changed,
                kv=self.kv,
            )
            self._engines[assignment] = engine
            self._tasks[assignment] = asyncio.create_task(engine.run())
            log.info("engine asked for", extra={"assignment": str(assignment)})
            self._changed()
        return engine.status

    async def unload(self, assignment: Assignment, drain_s: float) -> None:
        """Drain and stop an engine. Unknown assignments are nothing to do."""
        engine = self._engines.pop(assignment, None)
        task = self._tasks.pop(assignment, None)
        if engine is None or task is None:
            return
        await engine.stop(drain_s)
        await asyncio.gather(task, return_exceptions=True)
        self._changed()

    async def close(self) -> None:
        """Stop every engine, all at once."""
        await asyncio.gather(
            *(self.unload(name, self._settings.drain_timeout_s) for name in list(self._engines))
        )

    def beat(self) -> pipeline_pb2.WorkerBeat:
        """What this machine says of itself now; safe to call from the beat's thread."""
        memory = psutil.virtual_memory()
        return pipeline_pb2.WorkerBeat(
            node_id=self.node_id,
            incarnation=self._incarnation,
            agent_locator=self.locator,
            region=self._settings.fleet.region,
            engines=[engine.status for engine in list(self._engines.values())],
            memory_total_bytes=memory.total,
            memory_free_bytes=memory.available,
            core_count=self._cores,
            device=self._settings.device,
        )

    def _changed(self) -> None:
        counts: dict[str, int] = {}
        for engine in self._engines.values():
            name = pipeline_pb2.EngineState.Name(engine.status.state)
            counts[name] = counts.get(name, 0) + 1
        for value in pipeline_pb2.EngineState.values():
            name = pipeline_pb2.EngineState.Name(value)
            label = name.removeprefix("ENGINE_STATE_").lower()
            self._metrics.engines.labels(label).set(counts.get(name, 0))
        self.on_change()

    def _order(self, assignment: Assignment, engine_count: int) -> Order:
        digest = hashlib.blake2b(str(assignment).encode(), digest_size=6).hexdigest()
        return Order(
            node_id=self.node_id,
            assignment=assignment,
            threads=self._settings.threads or max(1, self._cores // engine_count),
            ready_file=self._run_dir / f"engine-{digest}.json",
            settings=self._settings,
            token=self._token,
            agent_pid=os.getpid(),
        )
