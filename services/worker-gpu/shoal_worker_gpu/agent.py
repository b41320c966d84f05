"""The agent: which engines this machine runs, and what it tells the fleet about them.

Owns the set of supervised engines: who comes, who leaves to make room, who has not been used for
long. Does not know tensors or requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from shoal.worker.v1 import pipeline_pb2
from shoal_common.clock import Clock
from shoal_common.host import host_id
from shoal_common.ids import Incarnation, NodeId
from shoal_worker_gpu.assignment import Assignment
from shoal_worker_gpu.cores import owned_cores
from shoal_worker_gpu.errors import ModelDoesNotFit
from shoal_worker_gpu.kv_journal import KvMirror
from shoal_worker_gpu.link_times import nearest
from shoal_worker_gpu.memory import MIB, free_memory_bytes
from shoal_worker_gpu.metrics import AgentMetrics
from shoal_worker_gpu.order import Order
from shoal_worker_gpu.room import Resident, least_recently_used, outlived, to_make_room
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.stock import Stock
from shoal_worker_gpu.supervise import SupervisedEngine

log = logging.getLogger(__name__)

_ENGINE = (sys.executable, "-m", "shoal_worker_gpu.engine_child")
_REACH = {
    "pool": pipeline_pb2.REACH_POOL,
    "lan": pipeline_pb2.REACH_LAN,
    "public": pipeline_pb2.REACH_PUBLIC,
}
_LOOK_S = 1.0
# Time in which routers hear that an engine is leaving, and plans of before reach it.
_NOTICE_S = 1.0
_ROOM_TRIES_MAX = 3
# An engine that was refused is shown for so long, with the reason.
_REFUSAL_SHOWN_S = 60.0


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
        program: Sequence[str] = _ENGINE,
        free_memory: Callable[[], int] = free_memory_bytes,
    ) -> None:
        self.node_id = node_id
        self.locator = ""
        self.on_change: Callable[[], None] = lambda: None
        self.on_kv: Callable[[bytes], None] = lambda _: None
        self.kv = KvMirror(node_id, lambda message: self.on_kv(message))
        self.stock = Stock(clock)
        self._incarnation = incarnation
        self._settings = settings
        self._token = settings.fleet.secret_token()
        self._clock = clock
        self._metrics = metrics
        self._run_dir = run_dir
        self._program = program
        self._free_memory = free_memory
        self._engines: dict[Assignment, SupervisedEngine] = {}
        self._tasks: dict[Assignment, asyncio.Task[None]] = {}
        self._stops: dict[SupervisedEngine, asyncio.Task[None]] = {}
        self._configured: set[Assignment] = set()
        # Told to leave, as long as nobody asks for them meanwhile.
        self._noticed: set[Assignment] = set()
        self._wanted_bytes: dict[Assignment, int] = {}
        # What one load frees must not be counted on by another.
        self._room = asyncio.Lock()
        self._cores = settings.cores or owned_cores()
        self._host_id = host_id()

    def load_configured(self, assignments: Sequence[Assignment]) -> None:
        """Start what the settings name."""
        self._configured.update(assignments)
        for assignment in assignments:
            self.load(assignment, engine_count=len(assignments))

    def load(
        self, assignment: Assignment, engine_count: int = 1, memory_bytes: int = 0
    ) -> pipeline_pb2.EngineStatus:
        """Start an engine for the assignment; one that is there stays, one that failed starts anew.

        engine_count: engines that will share this machine's cores. memory_bytes: what it is
        expected to take; idle engines leave for it. With 0, none does.
        """
        self._noticed.discard(assignment)
        engine = self._engines.get(assignment)
        if engine is None:
            engine = SupervisedEngine(
                self._order(assignment, max(engine_count, len(self._engines) + 1)),
                self._clock,
                self._metrics,
                self._changed,
                program=self._program,
                kv=self.kv,
                relieve=lambda reason: self._relieve(assignment, reason),
                memory_left=lambda: self._allowed_bytes(assignment),
            )
            self._engines[assignment] = engine
            self._wanted_bytes[assignment] = memory_bytes
            self._tasks[assignment] = asyncio.create_task(self._live(engine))
            log.info("engine asked for", extra={"assignment": str(assignment)})
            self._changed()
        elif engine.status.state == pipeline_pb2.ENGINE_STATE_FAILED:
            engine.retry()
            self._changed()
        return self._said(assignment, engine)

    async def unload(self, assignment: Assignment, drain_s: float) -> None:
        """Drain and stop an engine. Unknown assignments are nothing to do."""
        engine = self._engines.pop(assignment, None)
        if engine is not None:
            task = self._tasks.pop(assignment)
            self._wanted_bytes.pop(assignment, None)
            self._noticed.discard(assignment)
            stop = asyncio.create_task(self._stop(engine, task, drain_s))
            self._stops[engine] = stop
            log.info("engine leaves", extra={"assignment": str(assignment)})
            self._changed()
        # A caller that goes away must not leave half a stop behind.
        await asyncio.gather(*map(asyncio.shield, self._stops_of(assignment)))

    async def close(self) -> None:
        """Stop every engine, all at once."""
        names = {*self._engines, *(engine.order.assignment for engine in self._stops)}
        await asyncio.gather(*(self.unload(n, self._settings.drain_timeout_s) for n in names))

    async def watch_idle(self) -> None:
        """Let engines leave that nobody has used for long, until cancelled."""
        while True:
            await self._clock.sleep(_LOOK_S)
            try:
                await self._end_outlived()
            except Exception:
                log.exception("looking for idle engines failed")

    def beat(self) -> pipeline_pb2.WorkerBeat:
        """What this machine says of itself now; safe to call from the beat's thread."""
        leaving = [self._said(e.order.assignment, e, is_leaving=True) for e in list(self._stops)]
        return pipeline_pb2.WorkerBeat(
            node_id=self.node_id,
            incarnation=self._incarnation,
            agent_locator=self.locator,
            region=self._settings.fleet.region,
            engines=[self._said(*each) for each in list(self._engines.items())] + leaving,
            memory_total_bytes=psutil.virtual_memory().total,
            memory_free_bytes=self._room_bytes(),
            core_count=self._cores,
            device=self._settings.device,
            host_id=self._host_id,
            reach=_REACH[self._settings.reach],
            links=nearest([n for e in list(self._engines.values()) for n in e.links], self.node_id),
            memory_max_bytes=self._settings.memory_max_mb * MIB,
            is_locked=self._settings.is_locked,
        )

    def is_pinned(self, assignment: Assignment) -> bool:
        """True for an engine that stays whatever happens.

        By itself, that is one that would not come back when it is asked for: layers that the
        settings name, or a model that no shard-store announces.
        """
        if self._settings.pin_loaded == "never":
            return False
        is_configured = assignment in self._configured
        if is_configured and (self._settings.pin_loaded == "always" or assignment.is_part):
            return True
        return not self.stock.has(assignment.model)

    async def _live(self, engine: SupervisedEngine) -> None:
        """From the room it needs to its end."""
        assignment = engine.order.assignment
        await asyncio.gather(*map(asyncio.shield, self._stops_of(assignment)))
        if needed_bytes := self._wanted_bytes.get(assignment, 0):
            async with self._room:
                await self._make_room(needed_bytes + self._still_to_be_taken(assignment))
        await engine.run()

    async def _make_room(self, needed_bytes: int) -> None:
        """Let idle engines leave; who is used meanwhile stays, and others are chosen."""
        for _ in range(_ROOM_TRIES_MAX):
            chosen = to_make_room(self._residents(), needed_bytes, self._room_bytes())
            if all(await asyncio.gather(*map(self._let_go, chosen))):
                return

    async def _stop(
        self, engine: SupervisedEngine, task: asyncio.Task[None], drain_s: float
    ) -> None:
        try:
            await engine.stop(drain_s)
            await asyncio.gather(task, return_exceptions=True)
        finally:
            self._stops.pop(engine, None)
            self._changed()

    def _stops_of(self, assignment: Assignment) -> list[asyncio.Task[None]]:
        return [s for engine, s in self._stops.items() if engine.order.assignment == assignment]

    async def _let_go(self, assignment: Assignment) -> bool:
        """Unload an idle engine, with notice; False if it was used or asked for meanwhile."""
        noticed_at_s = self._clock.monotonic()
        self._noticed.add(assignment)
        self._changed()
        await self._clock.sleep(_NOTICE_S)
        engine = self._engines.get(assignment)
        if engine is None or assignment not in self._noticed:
            return False
        if not engine.is_idle or engine.last_used_s > noticed_at_s:
            self._noticed.discard(assignment)
            self._changed()
            return False
        await self.unload(assignment, self._settings.drain_timeout_s)
        return True

    async def _relieve(self, assignment: Assignment, reason: str) -> bool:
        """An engine did not fit: True when another one left, so that it may be tried again.

        Only for those that were asked for: what the settings name does not push out its siblings.
        """
        if reason != ModelDoesNotFit.reason or not self._wanted_bytes.get(assignment):
            return False
        async with self._room:
            oldest = least_recently_used(self._residents())
            return oldest is not None and await self._let_go(oldest)

    def _residents(self) -> list[Resident]:
        return [
            Resident(
                assignment=assignment,
                memory_bytes=engine.memory_bytes or engine.status.weight_bytes,
                last_used_s=engine.last_used_s,
                is_idle=engine.is_idle and assignment not in self._noticed,
                is_pinned=self.is_pinned(assignment),
            )
            for assignment, engine in self._engines.items()
        ]

    def _room_bytes(self) -> int:
        """What engines may still take: what is free, within what they may have together."""
        free = self._free_memory()
        if not self._settings.memory_max_mb:
            return free
        taken = sum(engine.memory_bytes for engine in list(self._engines.values()))
        return max(0, min(free, self._settings.memory_max_mb * MIB - taken))

    def _allowed_bytes(self, newcomer: Assignment) -> int | None:
        """What one engine that starts now may take; None where nothing but free memory limits it.

        Engines on their way count with what they are expected to take.
        """
        if not self._settings.memory_max_mb:
            return None
        others = [each for each in self._engines.items() if each[0] != newcomer]
        taken = sum(
            max(engine.memory_bytes, self._wanted_bytes.get(assignment, 0) * engine.is_starting)
            for assignment, engine in others
        )
        return max(0, self._settings.memory_max_mb * MIB - taken)

    def _still_to_be_taken(self, newcomer: Assignment) -> int:
        """What other engines on their way will take yet of the memory that is free now."""
        return sum(
            max(0, self._wanted_bytes.get(assignment, 0) - engine.memory_bytes)
            for assignment, engine in self._engines.items()
            if assignment != newcomer and engine.is_starting
        )

    async def _end_outlived(self) -> None:
        now_s = self._clock.monotonic()
        idle_s = 0.0 if self._settings.is_locked else self._settings.idle_model_s
        idle = outlived(self._residents(), now_s, idle_s)
        await asyncio.gather(*map(self._let_go, idle))
        for assignment, engine in list(self._engines.items()):
            refused_at_s = engine.refused_at_s
            is_over = refused_at_s is not None and now_s - refused_at_s >= _REFUSAL_SHOWN_S
            if is_over and not self.is_pinned(assignment):
                await self.unload(assignment, 0.0)

    def _said(
        self, assignment: Assignment, engine: SupervisedEngine, *, is_leaving: bool = False
    ) -> pipeline_pb2.EngineStatus:
        """What is known of an engine, with what only the agent knows."""
        status = pipeline_pb2.EngineStatus()
        status.CopyFrom(engine.status)
        if is_leaving or assignment in self._noticed:
            status.state = pipeline_pb2.ENGINE_STATE_DRAINING
        status.is_pinned = self.is_pinned(assignment)
        status.memory_bytes = engine.memory_bytes
        return status

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
