"""Owns: models on their way to workers because somebody asked for them, and which could not go.

Does not know: queues and plans, nor where a model belongs (`placement`). It decides synchronously
(`ask`, `review`); the calls of agents are made by `orders`. What becomes of a load is read from
beats alone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_common.clock import Clock
from shoal_router.announcements import Announcements
from shoal_router.errors import LoadFailed
from shoal_router.fleet_view import FleetView, Worker
from shoal_router.metrics import LoadOutcome, Metrics
from shoal_router.offers import MIB, ON_THE_WAY, Offers
from shoal_router.orders import LoadOrder, Orders, is_whole
from shoal_router.placement import (
    Goal,
    Machine,
    ModelShape,
    PlacedRange,
    place,
)

log = logging.getLogger(__name__)

# A beat heard sooner after the order may have been sent before it.
STALE_BEAT_S = 1.0
# What a worker says of an engine that another worker might well hold.
_DOES_NOT_FIT = "MODEL_DOES_NOT_FIT"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    wait_s: float = 180.0
    """How long plans wait for a model that is being loaded."""
    retry_s: float = 15.0
    """How long a failed load is remembered."""


@dataclass(slots=True)
class _Load:
    """One model on its way, whole or in parts."""

    model: str
    orders: list[LoadOrder]
    deadline_s: float


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
        offers: Offers,
        orders: Orders,
        clock: Clock,
        options: LoadOptions,
        metrics: Metrics,
    ) -> None:
        self._view = view
        self._announcements = announcements
        self._offers = offers
        self._orders = orders
        self._clock = clock
        self._options = options
        self._metrics = metrics
        self._loads: dict[str, _Load] = {}
        self._failures: dict[str, _Failure] = {}

    def ask(self, model: str) -> bool:
        """Sees to it that a model nobody holds is loaded; True while it is on its way.

        Parts of it that are held stay, and the others are loaded. False for one that no shard-store
        announces, that is complete already, or of which an operator has pinned parts: whoever fixes
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
        held = list(self._held(model))
        coming = [each for each in held if each[1].state in ON_THE_WAY]
        if whole := [each for each in coming if is_whole(each[1])]:
            self._adopt(model, whole[:1])
            return True
        if any(engine.is_pinned or is_whole(engine) for _, engine in held):
            return False
        shape = self._offers.shape(model)
        assert shape is not None
        if not held or _lacks(held, shape.layer_count):
            self._start(model, shape, self._offers.machines(model, shape))
            return True
        if coming:
            self._adopt(model, coming)
        return bool(coming)

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
        """How far the load of a model is, 0 to 99: as its slowest part; None when it is not on its
        way."""
        load = self._loads.get(model)
        return None if load is None else min(map(self._percent, load.orders), default=0)

    def _percent(self, order: LoadOrder) -> int:
        engine = self._engine(order)
        if engine is None:
            return 0
        if engine.state == pb.ENGINE_STATE_READY:
            return 99
        return min(99, engine.progress_percent) if engine.state in ON_THE_WAY else 0

    def _workers(self) -> list[tuple[Worker, bool]]:
        return [(worker, is_alive) for worker, _, is_alive in self._view.workers()]

    def _held(self, model: str) -> Iterable[tuple[Worker, pb.EngineStatus]]:
        """Engines of living workers that hold, or are getting, some of a model."""
        for worker, is_alive in self._workers():
            for engine in worker.beat.engines if is_alive else ():
                if engine.model == model and engine.state in (pb.ENGINE_STATE_READY, *ON_THE_WAY):
                    yield worker, engine

    def _adopt(self, model: str, coming: Sequence[tuple[Worker, pb.EngineStatus]]) -> None:
        """A load that somebody else began: a router before us, or the worker's own settings."""
        orders = []
        for worker, engine in coming:
            count = engine.layer_count or engine.layer_stop or 1
            stop = engine.layer_stop or count
            placed = PlacedRange(worker.beat.node_id, engine.layer_start, stop)
            orders.append(self._orders.adopt(LoadOrder(model, placed, count, promised_bytes=0)))
        deadline_s = self._clock.monotonic() + self._options.wait_s
        self._loads[model] = _Load(model, orders, deadline_s)

    def _start(
        self,
        model: str,
        shape: ModelShape,
        machines: Sequence[Machine],
        kept: Sequence[LoadOrder] = (),
    ) -> None:
        """Chooses machines and gives the orders. Raises LoadFailed where they have no room.

        kept: orders of before that are still good.
        """
        failure = self._failures.get(model)
        avoid = failure.node_ids if failure else ()
        chosen = place(shape, machines, self._offers.links(), Goal.ONE_WAY, avoid).chosen
        if chosen is None:
            raise self._failed(model, _no_room(shape, machines))
        by_id = {machine.node_id: machine for machine in machines}
        orders = list(kept)
        for each in chosen.ranges:
            machine = by_id[each.node_id]
            range_of = (each.layer_start, each.layer_stop)
            if range_of in {(held.layer_start, held.layer_stop) for held in machine.held}:
                continue
            order = LoadOrder(model, each, shape.layer_count, shape.memory_bytes(*range_of))
            orders.append(self._orders.load(machine.locator, order))
        deadline_s = self._clock.monotonic() + self._options.wait_s
        self._loads[model] = _Load(model, orders, deadline_s)

    def _review(self, load: _Load) -> None:
        """The first part that has gone wrong decides about the load."""
        for order in load.orders:
            worker = next((w for w, alive in self._workers() if alive and _is_on(order, w)), None)
            if worker is None:
                return self._elsewhere(load, order, "the worker went silent")
            if order.error is not None:
                return self._elsewhere(load, order, str(order.error))
            if order.accepted_at_s is None:
                continue
            if worker.heard_at_s - order.accepted_at_s < STALE_BEAT_S:
                continue
            if problem := self._problem(order):
                is_others_turn = not order.is_whole or problem.startswith(_DOES_NOT_FIT)
                end = self._elsewhere if is_others_turn else self._fail
                end(load, order, problem)
                return None
        return None

    def _problem(self, order: LoadOrder) -> str:
        """What the worker says went wrong with an order it took; empty when nothing did."""
        engine = self._engine(order)
        if engine is None:
            return "the worker has dropped it"
        if engine.state == pb.ENGINE_STATE_FAILED:
            return engine.detail or "the engine failed"
        return ""

    def _engine(self, order: LoadOrder) -> pb.EngineStatus | None:
        """The newest word of the engine that is to hold what was ordered."""
        engines = [
            engine
            for worker, _ in self._workers()
            if _is_on(order, worker)
            for engine in worker.beat.engines
            if order.is_about(engine)
        ]
        # One of before may still be on its way out.
        engines.sort(key=lambda engine: engine.state == pb.ENGINE_STATE_DRAINING)
        return engines[0] if engines else None

    def _too_slow(self, load: _Load) -> None:
        percent = self.percent(load.model)
        slowest = min(load.orders, key=self._percent)
        detail = f"it was not ready within {self._options.wait_s:g} s ({percent}% done)"
        self._fail(load, slowest, detail, LoadOutcome.TIMED_OUT)

    def _elsewhere(self, load: _Load, order: LoadOrder, detail: str) -> None:
        """The machine is to blame: others are tried at once, if there are any.

        Parts that are on their way to other machines go on.
        """
        failure = self._fail(load, order, detail)
        tried = failure.node_ids
        shape = self._offers.shape(load.model)
        if shape is None or self._announcements.get(load.model) is None:
            return
        kept = [each for each in load.orders if each is not order]
        for each in kept:
            self._orders.keep(each)
        machines = [
            machine
            for machine in self._offers.machines(load.model, shape)
            if machine.held or machine.node_id not in tried
        ]
        try:
            if all(machine.is_fixed or machine.node_id in tried for machine in machines):
                raise LoadFailed(load.model, detail, self._options.retry_s)
            self._start(load.model, shape, machines, kept)
        except LoadFailed:
            # What went wrong first says more than that nobody else has room.
            self._failures[load.model] = failure
            for each in kept:
                self._orders.close(each)
            return
        self._loads[load.model].deadline_s = load.deadline_s

    def _fail(
        self,
        load: _Load,
        order: LoadOrder,
        detail: str,
        outcome: LoadOutcome = LoadOutcome.FAILED,
    ) -> _Failure:
        self._end(load, outcome)
        before = self._failures.get(load.model)
        self._failed(load.model, f"on {order.node_id}, {detail}")
        failure = self._failures[load.model]
        failure.node_ids |= (before.node_ids if before else set()) | {order.node_id}
        return failure

    def _failed(self, model: str, detail: str) -> LoadFailed:
        until_s = self._clock.monotonic() + self._options.retry_s
        known = self._failures.get(model)
        self._failures[model] = _Failure(detail, until_s, known.node_ids if known else set())
        log.warning("load failed", extra={"model": model, "detail": detail})
        return LoadFailed(model, detail, self._options.retry_s)

    def _end(self, load: _Load, outcome: LoadOutcome) -> None:
        self._loads.pop(load.model, None)
        for order in load.orders:
            self._orders.close(order)
        self._metrics.count_load(outcome)
        if outcome is LoadOutcome.LOADED:
            nodes = sorted({order.node_id for order in load.orders})
            log.info("model loaded", extra={"model": load.model, "node_ids": nodes})


def _lacks(held: Iterable[tuple[Worker, pb.EngineStatus]], layer_count: int) -> bool:
    position = 0
    for start, stop in sorted((e.layer_start, e.layer_stop or layer_count) for _, e in held):
        if start > position:
            return True
        position = max(position, stop)
    return position < layer_count


def _no_room(shape: ModelShape, machines: Sequence[Machine]) -> str:
    needed_mib = shape.memory_bytes(0, shape.layer_count) // MIB
    most_mib = max((machine.room_bytes for machine in machines), default=0) // MIB
    sum_mib = sum(machine.room_bytes for machine in machines) // MIB
    return (
        f"it needs about {needed_mib} MiB; of {len(machines)} workers the one with the most room "
        f"has {most_mib} MiB, idle models included, and all together {sum_mib} MiB"
    )


def _is_on(order: LoadOrder, worker: Worker) -> bool:
    return worker.beat.node_id == order.node_id
