"""Owns: models on their way to a worker because somebody asked for them, and which could not go.

Does not know: queues and plans. It decides synchronously (`ask`, `review`); the one effect, the
call of a worker's agent, runs as a task. What becomes of a load is read from beats alone.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal.worker.v1 import worker_pb2
from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_router.announcements import Announcements
from shoal_router.errors import LoadFailed
from shoal_router.fleet_view import FleetView, Worker
from shoal_router.metrics import LoadOutcome, Metrics
from shoal_router.peers import Agents
from shoal_router.placement import Need, choose, machine_of

log = logging.getLogger(__name__)

MIB = 1 << 20
ON_THE_WAY = (pb.ENGINE_STATE_FETCHING, pb.ENGINE_STATE_LOADING)
# A beat heard sooner after the order may have been sent before it.
STALE_BEAT_S = 1.0


@dataclass(frozen=True, slots=True)
class LoadOptions:
    wait_s: float = 180.0
    """How long plans wait for a model that is being loaded."""
    retry_s: float = 15.0
    """How long a failed load is remembered."""
    overhead_bytes: int = 256 * MIB
    """Of an engine process, besides its weights."""


@dataclass(slots=True)
class _Load:
    """One model on its way. accepted_at_s: when the worker took the order."""

    model: str
    node_id: str
    promised_bytes: int
    deadline_s: float
    accepted_at_s: float | None = None
    error: ShoalError | None = None


@dataclass(slots=True)
class _Failure:
    """Why a load failed. node_ids: where it was tried; they come last when it is tried again."""

    detail: str
    until_s: float
    node_ids: set[str] = field(default_factory=set)


class Loads:
    """Invariant: at most one load per model, however many plans wait for it."""

    def __init__(
        self,
        view: FleetView,
        announcements: Announcements,
        agents: Agents,
        clock: Clock,
        options: LoadOptions,
        metrics: Metrics,
    ) -> None:
        self._view = view
        self._announcements = announcements
        self._agents = agents
        self._clock = clock
        self._options = options
        self._metrics = metrics
        self._loads: dict[str, _Load] = {}
        self._failures: dict[str, _Failure] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def ask(self, model: str) -> bool:
        """Sees to it that a model nobody holds is loaded; True while it is on its way.

        False for one that no shard-store announces, or of which some layers are held: whoever holds
        a part decides about the rest. Raises LoadFailed where it failed a short while ago.
        """
        if model in self._loads:
            return True
        if self._announcements.get(model) is None:
            return False
        failure = self._failures.get(model)
        left_s = failure.until_s - self._clock.monotonic() if failure else 0.0
        if failure is not None and left_s > 0:
            raise LoadFailed(model, failure.detail, left_s)
        held = [
            (worker, engine)
            for worker, is_alive in self._workers()
            if is_alive
            for engine in worker.beat.engines
            if engine.model == model and engine.state in (pb.ENGINE_STATE_READY, *ON_THE_WAY)
        ]
        for worker, engine in held:
            if is_whole(engine) and engine.state in ON_THE_WAY:
                self._adopt(model, worker)
                return True
        if held:
            return False
        self._start(model)
        return True

    def review(self, ready_models: Collection[str]) -> None:
        """Ends loads that are done, failed or too slow, as the newest beats tell."""
        for model in [name for name in self._failures if not self._announcements.get(name)]:
            del self._failures[model]
        for load in list(self._loads.values()):
            if load.model in ready_models:
                self._end(load, LoadOutcome.LOADED)
                self._failures.pop(load.model, None)
            elif self._clock.monotonic() >= load.deadline_s:
                self._too_slow(load)
            else:
                self._review(load)

    def percent(self, model: str) -> int | None:
        """How far the load of a model is, 0 to 99; None when it is not on its way."""
        load = self._loads.get(model)
        if load is None:
            return None
        engine = self._engine(load)
        if engine is None or engine.state not in ON_THE_WAY:
            return 0
        return min(99, engine.progress_percent)

    async def close(self) -> None:
        """Gives up calls in flight; workers that have begun go on."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _workers(self) -> list[tuple[Worker, bool]]:
        return [(worker, is_alive) for worker, _, is_alive in self._view.workers()]

    def _adopt(self, model: str, worker: Worker) -> None:
        """A load that somebody else began: a router before us, or the worker's own settings."""
        now_s = self._clock.monotonic()
        self._loads[model] = _Load(
            model, worker.beat.node_id, 0, now_s + self._options.wait_s, accepted_at_s=now_s
        )

    def _start(self, model: str) -> None:
        """Chooses a machine and gives the order. Raises LoadFailed where none could hold it."""
        announced = self._announcements.get(model)
        assert announced is not None
        need = Need(
            wanted_bytes=announced.weight_bytes + self._options.overhead_bytes,
            least_bytes=announced.parameter_count,
        )
        failure = self._failures.get(model)
        machines = [
            machine
            for worker, is_alive in self._workers()
            if is_alive and (machine := machine_of(worker.beat, self._promised(worker)))
        ]
        machine = choose(machines, need, failure.node_ids if failure else ())
        if machine is None:
            most = max((m.room_bytes for m in machines), default=0)
            raise self._failed(
                model,
                f"it needs about {need.wanted_bytes // MIB} MiB; of {len(machines)} workers the "
                f"one with the most room has {most // MIB} MiB, idle models included",
            )
        load = _Load(
            model,
            machine.node_id,
            need.wanted_bytes,
            self._clock.monotonic() + self._options.wait_s,
        )
        self._loads[model] = load
        request = worker_pb2.LoadRequest(
            request_id=uuid.uuid4().hex, model=model, memory_bytes=need.wanted_bytes
        )
        call = asyncio.create_task(self._call(load, machine.locator, request))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        log.info("load ordered", extra={"model": model, "node_id": machine.node_id})

    def _promised(self, worker: Worker) -> int:
        """What loads on their way will take of a worker's memory, apart from what they have."""
        return sum(
            load.promised_bytes
            for load in self._loads.values()
            if load.node_id == worker.beat.node_id
        )

    async def _call(self, load: _Load, locator: str, request: worker_pb2.LoadRequest) -> None:
        try:
            await self._agents.load(locator, request)
        except ShoalError as err:
            load.error = err
        else:
            load.accepted_at_s = self._clock.monotonic()

    def _review(self, load: _Load) -> None:
        worker = next((w for w, alive in self._workers() if alive and _is_on(load, w)), None)
        if worker is None:
            self._elsewhere(load, "the worker went silent")
        elif load.error is not None:
            self._elsewhere(load, str(load.error))
        elif load.accepted_at_s is not None:
            if worker.heard_at_s - load.accepted_at_s < STALE_BEAT_S:
                return
            engine = self._engine(load)
            if engine is None:
                self._fail(load, LoadOutcome.FAILED, "the worker has dropped it")
            elif engine.state == pb.ENGINE_STATE_FAILED:
                self._fail(load, LoadOutcome.FAILED, engine.detail or "the engine failed")

    def _engine(self, load: _Load) -> pb.EngineStatus | None:
        """The newest word of the engine that is to hold the model."""
        engines = [
            engine
            for worker, _ in self._workers()
            if _is_on(load, worker)
            for engine in worker.beat.engines
            if engine.model == load.model and is_whole(engine)
        ]
        # One of before may still be on its way out.
        engines.sort(key=lambda engine: engine.state == pb.ENGINE_STATE_DRAINING)
        return engines[0] if engines else None

    def _too_slow(self, load: _Load) -> None:
        percent = self.percent(load.model)
        self._fail(
            load,
            LoadOutcome.TIMED_OUT,
            f"it was not ready within {self._options.wait_s:g} s ({percent}% done)",
        )

    def _elsewhere(self, load: _Load, detail: str) -> None:
        """The machine is to blame: another one is tried at once, if there is any."""
        tried = self._fail(load, LoadOutcome.FAILED, detail).node_ids
        untried = any(
            is_alive and worker.beat.agent_locator and worker.beat.node_id not in tried
            for worker, is_alive in self._workers()
        )
        if not untried or self._announcements.get(load.model) is None:
            return
        try:
            self._start(load.model)
        except LoadFailed:
            return
        self._loads[load.model].deadline_s = load.deadline_s

    def _fail(self, load: _Load, outcome: LoadOutcome, detail: str) -> _Failure:
        self._end(load, outcome)
        before = self._failures.get(load.model)
        self._failed(load.model, f"on {load.node_id}, {detail}")
        failure = self._failures[load.model]
        failure.node_ids |= (before.node_ids if before else set()) | {load.node_id}
        return failure

    def _failed(self, model: str, detail: str) -> LoadFailed:
        until_s = self._clock.monotonic() + self._options.retry_s
        known = self._failures.get(model)
        self._failures[model] = _Failure(detail, until_s, known.node_ids if known else set())
        log.warning("load failed", extra={"model": model, "detail": detail})
        return LoadFailed(model, detail, self._options.retry_s)

    def _end(self, load: _Load, outcome: LoadOutcome) -> None:
        self._loads.pop(load.model, None)
        self._metrics.count_load(outcome)
        if outcome is LoadOutcome.LOADED:
            log.info("model loaded", extra={"model": load.model, "node_id": load.node_id})


def is_whole(engine: pb.EngineStatus) -> bool:
    """True for an engine that holds, or will hold, every layer; one that starts knows no number."""
    return engine.layer_start == 0 and engine.layer_stop in (0, engine.layer_count)


def _is_on(load: _Load, worker: Worker) -> bool:
    return worker.beat.node_id == load.node_id
