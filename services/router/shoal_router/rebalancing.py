"""Owns: looking at every model now and then, and giving the orders that `rebalance` decides on.

Effects and eyes only: the decisions are pure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_common.clock import Clock
from shoal_router.fleet_view import FleetView
from shoal_router.loading import STALE_BEAT_S, Loads
from shoal_router.metrics import Metrics
from shoal_router.offers import Offers
from shoal_router.orders import LoadOrder, Orders
from shoal_router.rebalance import Look, Move, MoveKind, Rebalancer

log = logging.getLogger(__name__)

# A larger fleet is thought about on a thread, so that plans are not kept waiting.
_INLINE_MACHINES_MAX = 64
# Engines that run this share of what they could are pressed, even before requests wait.
_PRESSED_SHARE = 0.5


class Rebalancing:
    """Models whose load somebody waits for are left alone meanwhile.

    drain_s: time for what runs on ranges that leave. used_s: a model that nobody has asked for in
    this time is not made quicker.
    """

    def __init__(
        self,
        view: FleetView,
        offers: Offers,
        orders: Orders,
        loads: Loads,
        rebalancer: Rebalancer,
        waiting_models: Callable[[], Collection[str]],
        clock: Clock,
        metrics: Metrics,
        *,
        drain_s: float = 60.0,
        used_s: float = 600.0,
    ) -> None:
        self._view = view
        self._offers = offers
        self._orders = orders
        self._loads = loads
        self._rebalancer = rebalancer
        self._waiting_models = waiting_models
        self._clock = clock
        self._metrics = metrics
        self._drain_s = drain_s
        self._used_s = used_s
        self._given: list[LoadOrder] = []

    async def run(self, tick_s: float) -> None:
        """Looks every `tick_s`, until it is cancelled."""
        while True:
            await self._clock.sleep(tick_s)
            try:
                await self.look()
            except Exception:
                log.exception("rebalancing failed")

    async def look(self) -> None:
        """One tick over all models."""
        self._settle()
        models = self._view.models()
        self._rebalancer.forget(models)
        for model in models:
            if self._loads.percent(model) is None and self._offers.is_loadable(model):
                await self._look_at(model)

    async def _look_at(self, model: str) -> None:
        shape = self._offers.shape(model)
        if shape is None:
            return
        look = Look(
            shape,
            self._offers.machines(model, shape),
            self._offers.links(),
            is_used=self._is_used(model),
            is_pressed=self._is_pressed(model),
            failed=self._failed_nodes(model),
        )
        now_s = self._clock.monotonic()
        if len(look.machines) <= _INLINE_MACHINES_MAX:
            moves = self._rebalancer.decide(look, now_s)
        else:
            moves = await asyncio.to_thread(self._rebalancer.decide, look, now_s)
        locators = {machine.node_id: machine.locator for machine in look.machines}
        for move in moves:
            self._give(move, look, locators[move.placed.node_id])

    def _give(self, move: Move, look: Look, locator: str) -> None:
        placed, shape = move.placed, look.shape
        self._metrics.count_move(move.kind)
        if move.kind is MoveKind.UNLOAD:
            self._orders.unload(locator, shape.model, placed, shape.layer_count, self._drain_s)
            return
        size_bytes = shape.memory_bytes(placed.layer_start, placed.layer_stop)
        order = LoadOrder(shape.model, placed, shape.layer_count, size_bytes)
        self._given.append(self._orders.load(locator, order))

    def _settle(self) -> None:
        """Closes orders that have come to an end, one way or the other."""
        workers = {w.beat.node_id: w for w, _, is_alive in self._view.workers() if is_alive}
        open_orders = []
        for order in self._given:
            worker = workers.get(order.node_id)
            engines = worker.beat.engines if worker else ()
            states = [e.state for e in engines if order.is_about(e)]
            taken_s = order.accepted_at_s
            is_stale = taken_s is None or (worker and worker.heard_at_s - taken_s < STALE_BEAT_S)
            if pb.ENGINE_STATE_READY in states:
                self._orders.close(order)
            elif worker is not None and order.error is None and (is_stale or _is_coming(states)):
                open_orders.append(order)
            else:
                self._orders.close(order)
                self._rebalancer.give_up(order.model, self._clock.monotonic())
        self._given = open_orders

    def _is_used(self, model: str) -> bool:
        idle_ms = [e.idle_ms for e in self._view.statuses(model)]
        return min(idle_ms, default=0) < self._used_s * 1000

    def _is_pressed(self, model: str) -> bool:
        """Requests wait for it, or its engines run half of what they could."""
        ready = [e for e in self._view.statuses(model) if e.state == pb.ENGINE_STATE_READY]
        if model in self._waiting_models() or any(e.waiting_count for e in ready):
            return True
        shares = [e.running_count / e.running_max for e in ready if e.running_max]
        return bool(shares) and sum(shares) / len(shares) >= _PRESSED_SHARE

    def _failed_nodes(self, model: str) -> frozenset[str]:
        return frozenset(
            worker.beat.node_id
            for worker, _, is_alive in self._view.workers()
            if is_alive
            for e in worker.beat.engines
            if e.model == model and e.state == pb.ENGINE_STATE_FAILED
        )


def _is_coming(states: Collection[pb.EngineState]) -> bool:
    return any(state in (pb.ENGINE_STATE_FETCHING, pb.ENGINE_STATE_LOADING) for state in states)
