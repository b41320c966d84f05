"""Owns: orders to workers on their way, and the memory promised to them.

The effect behind loading and rebalancing: an order is one call of a worker's agent, made by a task.
Does not know why it is given; what becomes of it is read from beats.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal.worker.v1 import worker_pb2
from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_router.peers import Agents
from shoal_router.placement import PlacedRange

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class LoadOrder:
    """Layers of a model that a worker was told to load.

    layer_count: of the model. accepted_at_s: when the worker took the order. error: it did not.
    """

    model: str
    placed: PlacedRange
    layer_count: int
    promised_bytes: int
    accepted_at_s: float | None = None
    error: ShoalError | None = None

    @property
    def node_id(self) -> str:
        return self.placed.node_id

    @property
    def is_whole(self) -> bool:
        return self.placed.layer_stop - self.placed.layer_start == self.layer_count

    def is_about(self, engine: pb.EngineStatus) -> bool:
        """True for the engine that holds, or will hold, what was ordered."""
        if engine.model != self.model:
            return False
        if self.is_whole:
            return is_whole(engine)
        held = (engine.layer_start, engine.layer_stop or self.layer_count)
        return held == (self.placed.layer_start, self.placed.layer_stop)


class Orders:
    """Invariant: memory is promised from the order until whoever gave it calls `close`."""

    def __init__(self, agents: Agents, clock: Clock) -> None:
        self._agents = agents
        self._clock = clock
        self._open: list[LoadOrder] = []
        self._calls: set[asyncio.Task[None]] = set()

    def load(self, locator: str, order: LoadOrder) -> LoadOrder:
        """Tells a worker to load; idle engines there may leave for it."""
        self._open.append(order)
        request = worker_pb2.LoadRequest(
            request_id=uuid.uuid4().hex,
            model=order.model,
            memory_bytes=order.promised_bytes,
            # A whole model is known to its worker as one without a range.
            layer_start=0 if order.is_whole else order.placed.layer_start,
            layer_stop=0 if order.is_whole else order.placed.layer_stop,
        )
        self._spawn(self._load(order, locator, request))
        log.info("load ordered", extra=_said(order))
        return order

    def adopt(self, order: LoadOrder) -> LoadOrder:
        """An order that somebody else gave: a router before us, or the worker's own settings."""
        order.accepted_at_s = self._clock.monotonic()
        self._open.append(order)
        return order

    def unload(
        self, locator: str, model: str, placed: PlacedRange, layer_count: int, drain_s: float
    ) -> None:
        """Tells a worker to let a range go once what runs there has ended, or after `drain_s`."""
        names = [(placed.layer_start, placed.layer_stop)]
        if names == [(0, layer_count)]:
            names.insert(0, (0, 0))
        requests = [
            worker_pb2.UnloadRequest(
                request_id=uuid.uuid4().hex,
                model=model,
                layer_start=start,
                layer_stop=stop,
                drain_ms=round(drain_s * 1000),
            )
            for start, stop in names
        ]
        self._spawn(self._unload(locator, requests))
        where = {"node_id": placed.node_id, "layers": f"{placed.layer_start}:{placed.layer_stop}"}
        log.info("unload ordered", extra={"model": model, **where})

    def of(self, model: str) -> tuple[LoadOrder, ...]:
        """Open orders of a model."""
        return tuple(order for order in self._open if order.model == model)

    def promised_bytes(self, node_id: str) -> int:
        """What loads on their way will take of a worker's memory."""
        return sum(order.promised_bytes for order in self._open if order.node_id == node_id)

    def keep(self, order: LoadOrder) -> None:
        """Takes a closed order up again: it is part of another attempt. Idempotent."""
        if order not in self._open:
            self._open.append(order)

    def close(self, order: LoadOrder) -> None:
        """The order is done, or given up. Idempotent."""
        self._open = [each for each in self._open if each is not order]

    async def stop(self) -> None:
        """Gives up calls in flight; workers that have begun go on."""
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _spawn(self, call: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _load(self, order: LoadOrder, locator: str, request: worker_pb2.LoadRequest) -> None:
        try:
            await self._agents.load(locator, request)
        except ShoalError as err:
            order.error = err
        else:
            order.accepted_at_s = self._clock.monotonic()

    async def _unload(self, locator: str, requests: list[worker_pb2.UnloadRequest]) -> None:
        try:
            for request in requests:
                await self._agents.unload(locator, request)
        except ShoalError as err:
            log.warning("unload failed", extra={"reason": err.reason, "detail": str(err)})


def is_whole(engine: pb.EngineStatus) -> bool:
    """True for an engine that holds, or will hold, every layer; one that starts knows no number."""
    return engine.layer_start == 0 and engine.layer_stop in (0, engine.layer_count)


def _said(order: LoadOrder) -> dict[str, object]:
    layers = f"{order.placed.layer_start}:{order.placed.layer_stop}"
    return {"model": order.model, "node_id": order.node_id, "layers": layers}
