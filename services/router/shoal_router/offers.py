"""Owns: what placement is told: models as announced, machines and links as their beats describe.

Does not know: what is decided from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_router.announcements import Announcements
from shoal_router.fleet_view import FleetView
from shoal_router.orders import Orders
from shoal_router.placement import Goal, Held, Links, Machine, ModelShape, Placements, place

MIB = 1 << 20
ON_THE_WAY = (pb.ENGINE_STATE_FETCHING, pb.ENGINE_STATE_LOADING)
_HELD = (pb.ENGINE_STATE_READY, *ON_THE_WAY)
# Values of KV and activations are counted as 4 bytes, which is what a CPU keeps.
_VALUE_BYTES = 4
# Memory read per microsecond where nothing was measured: of one core, up to so many of them, and of
# an accelerator; and what a layer takes besides reading its weights.
_CORE_BYTES_PER_US = 6_000.0
_CORES_MAX = 8
_CORES_UNKNOWN = 2
_ACCELERATOR_BYTES_PER_US = 800_000.0
_LAYER_US_MIN = 30.0
# Speeds are told apart in steps of this size, so that placements do not follow every flutter.
_SPEED_STEP = 1.1


@dataclass(frozen=True, slots=True)
class OfferOptions:
    overhead_bytes: int = 256 * MIB
    """Of an engine process, besides its weights."""
    kv_tokens: int = 2048
    """Positions whose KV an engine must have room for."""
    links: Links = field(default_factory=Links)
    """What hops cost where nothing was measured."""


class Offers:
    """Reads the fleet view, the announcements and the open orders; keeps nothing."""

    def __init__(
        self, view: FleetView, announcements: Announcements, orders: Orders, options: OfferOptions
    ) -> None:
        self._view = view
        self._announcements = announcements
        self._orders = orders
        self._options = options

    def shape(self, model: str) -> ModelShape | None:
        """A model as its shard-store announces it, else as far as its engines tell; or None."""
        announced = self._announcements.get(model)
        if announced is None:
            return self._shape_of_held(model)
        layer_bytes = announced.layer_bytes or announced.weight_bytes // announced.layer_count
        return ModelShape(
            model=model,
            layer_count=announced.layer_count,
            layer_bytes=max(1, layer_bytes),
            embed_bytes=announced.embed_bytes,
            head_bytes=announced.head_bytes,
            ties_embeddings=announced.ties_embeddings,
            weight_bytes=announced.weight_bytes,
            least_bytes=announced.parameter_count,
            kv_layer_bytes=announced.kv_width * _VALUE_BYTES * self._options.kv_tokens,
            overhead_bytes=self._options.overhead_bytes,
            token_bytes=announced.width * _VALUE_BYTES,
        )

    def is_loadable(self, model: str) -> bool:
        """A shard-store hands it out."""
        return self._announcements.get(model) is not None

    def machines(self, model: str, shape: ModelShape) -> tuple[Machine, ...]:
        """Every living worker, as this model sees it."""
        living = [worker.beat for worker, _, is_alive in self._view.workers() if is_alive]
        on_host: dict[str, int] = {}
        for beat in living:
            promised = self._orders.promised_bytes(beat.node_id)
            on_host[_host(beat)] = on_host.get(_host(beat), 0) + promised
        measured = {beat.node_id: _measured_us(beat, model) for beat in living}
        scale = _scale(living, measured, shape)
        return tuple(
            self._machine(
                beat,
                shape,
                on_host[_host(beat)],
                _stepped(measured[beat.node_id] or scale * _roofline_us(beat, shape)),
            )
            for beat in living
        )

    def links(self) -> Links:
        """Measured links of all living workers, over what is assumed of the others."""
        rtt_us: dict[tuple[str, str], float] = {}
        rates: dict[tuple[str, str], float] = {}
        for worker, _, is_alive in self._view.workers():
            for link in worker.beat.links if is_alive else ():
                pair = (worker.beat.node_id, link.node_id)
                rtt_us[pair] = link.rtt_us
                rates[pair] = link.bytes_per_s
        assumed = self._options.links
        return Links(
            rtt_us,
            rates,
            local_us=assumed.local_us,
            region_us=assumed.region_us,
            far_us=assumed.far_us,
        )

    def placements(self, model: str, goal: Goal | None = None) -> Placements | None:
        """Every way considered to place a model now, each with its predictions and the reason why
        it won or lost; None for one that nobody knows.

        goal: ONE_WAY unless the model is held completely; then what more machines would bring.
        """
        considered = self.considered(model, goal)
        return None if considered is None else considered()

    def considered(self, model: str, goal: Goal | None = None) -> Callable[[], Placements] | None:
        """`placements` of the fleet as it is now, to be computed later, in any thread."""
        shape = self.shape(model)
        if shape is None:
            return None
        machines = self.machines(model, shape)
        if goal is None:
            goal = Goal.SPREAD if covers(machines, shape.layer_count) else Goal.ONE_WAY
        return partial(place, shape, machines, self.links(), goal)

    def _machine(
        self, beat: pb.WorkerBeat, shape: ModelShape, promised_bytes: int, layer_us: float
    ) -> Machine:
        free_bytes = beat.memory_free_bytes
        if beat.memory_max_bytes:
            used_bytes = sum(_memory_bytes(engine) for engine in beat.engines)
            free_bytes = min(free_bytes, max(0, beat.memory_max_bytes - used_bytes))
        idle = (_memory_bytes(e) for e in beat.engines if _may_leave(e, shape.model))
        return Machine(
            node_id=beat.node_id,
            locator=beat.agent_locator,
            region=beat.region,
            host_id=beat.host_id,
            reach=beat.reach,
            free_bytes=max(0, free_bytes - promised_bytes),
            idle_bytes=sum(idle),
            layer_us=layer_us,
            is_measured=_measured_us(beat, shape.model) > 0,
            held=self._held(beat, shape),
            is_locked=beat.is_locked or any(_is_lost_pin(e, shape.model) for e in beat.engines),
        )

    def _held(self, beat: pb.WorkerBeat, shape: ModelShape) -> tuple[Held, ...]:
        """Ranges that a worker has or is getting, those ordered but not in its beat included."""
        engines = [e for e in beat.engines if e.model == shape.model and e.state in _HELD]
        found = {}
        for engine in engines:
            start, stop = engine.layer_start, engine.layer_stop or shape.layer_count
            found[(start, stop)] = Held(
                start,
                min(stop, shape.layer_count),
                _memory_bytes(engine) or shape.memory_bytes(start, stop),
                engine.is_pinned,
                engine.state == pb.ENGINE_STATE_READY,
            )
        for order in self._orders.of(shape.model):
            placed = order.placed
            is_ours = placed.node_id == beat.node_id and order.error is None
            if is_ours and not any(order.is_about(engine) for engine in engines):
                key = (placed.layer_start, placed.layer_stop)
                found[key] = Held(*key, memory_bytes=0, is_ready=False)
        return tuple(found.values())

    def _shape_of_held(self, model: str) -> ModelShape | None:
        sizes = [
            (e.layer_count, e.weight_bytes // max(1, e.layer_stop - e.layer_start))
            for e in self._view.statuses(model)
            if e.layer_count and e.layer_stop > e.layer_start
        ]
        if not sizes:
            return None
        layer_bytes = max(1, round(median(size for _, size in sizes)))
        layer_count = max(count for count, _ in sizes)
        return ModelShape(model, layer_count, layer_bytes, overhead_bytes=0)


def covers(machines: Iterable[Machine], layer_count: int, *, ready_only: bool = False) -> bool:
    """Whether these machines together hold every layer, or are about to."""
    held = sorted(
        (h.layer_start, h.layer_stop)
        for machine in machines
        for h in machine.held
        if h.is_ready or not ready_only
    )
    position = 0
    for start, stop in held:
        if start > position:
            return False
        position = max(position, stop)
    return position >= layer_count


def _host(beat: pb.WorkerBeat) -> str:
    return f"host {beat.host_id}" if beat.host_id else f"node {beat.node_id}"


def _memory_bytes(engine: pb.EngineStatus) -> int:
    return engine.memory_bytes or engine.weight_bytes


def _may_leave(engine: pb.EngineStatus, model: str) -> bool:
    is_idle = engine.running_count == engine.waiting_count == 0
    is_other = engine.model != model
    return is_other and engine.state == pb.ENGINE_STATE_READY and is_idle and not engine.is_pinned


def _is_lost_pin(engine: pb.EngineStatus, model: str) -> bool:
    """A part that the worker's operator has fixed and that fails: nothing else goes there."""
    is_part = engine.layer_start > 0 or engine.layer_stop not in (0, engine.layer_count)
    is_failed = engine.state == pb.ENGINE_STATE_FAILED
    return engine.model == model and is_failed and engine.is_pinned and is_part


def _measured_us(beat: pb.WorkerBeat, model: str) -> float:
    """Of one layer of this model; 0 until measured."""
    times = [e.layer_time_us for e in beat.engines if e.model == model and e.layer_time_us]
    return float(median(times)) if times else 0.0


def _roofline_us(beat: pb.WorkerBeat, shape: ModelShape) -> float:
    """The time to read a layer's weights, at the rate at which this machine reads others'."""
    rates = [
        engine.weight_bytes / (engine.layer_stop - engine.layer_start) / engine.layer_time_us
        for engine in beat.engines
        if engine.layer_time_us and engine.weight_bytes and engine.layer_stop > engine.layer_start
    ]
    if rates:
        bytes_per_us = max(1.0, median(rates))
    elif beat.device and not beat.device.startswith("cpu"):
        bytes_per_us = _ACCELERATOR_BYTES_PER_US
    else:
        bytes_per_us = _CORE_BYTES_PER_US * min(_CORES_MAX, beat.core_count or _CORES_UNKNOWN)
    return _LAYER_US_MIN + shape.layer_bytes / bytes_per_us


def _scale(beats: Sequence[pb.WorkerBeat], measured: dict[str, float], shape: ModelShape) -> float:
    """How far measured times of this model are from what would have been expected of them."""
    ratios = [
        measured[beat.node_id] / _roofline_us(beat, shape)
        for beat in beats
        if measured[beat.node_id]
    ]
    return median(ratios) if ratios else 1.0


def _stepped(time_us: float) -> float:
    return _SPEED_STEP ** round(math.log(time_us, _SPEED_STEP))
