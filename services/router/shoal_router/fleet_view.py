"""Owns: who is in the fleet, rebuilt from beats alone. Does not know: chains, queues, requests."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_common.clock import Clock
from shoal_router.pipeline import Engine

log = logging.getLogger(__name__)

# Agent processes of one node whose late beats are recognised.
RETIRED_COUNT_MAX = 8
# How much of an engine's time as it is used comes from the newest beat: what a beat tells is an
# average already, and a second's hiccup should not move requests.
NEWEST_SHARE = 0.3


class BeatOutcome(Enum):
    """What a beat meant, as counted."""

    JOINED = "joined"
    REJOINED = "rejoined"
    UPDATED = "updated"
    LEFT = "left"
    LATE = "late"
    REFUSED = "refused"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class _Times:
    """Of one layer: a decode step in microseconds, a prompt token in nanoseconds; 0: unknown."""

    layer_us: float = 0.0
    prefill_ns: float = 0.0

    def mixed(self, status: pb.EngineStatus) -> _Times:
        return _Times(
            _mixed(self.layer_us, status.layer_time_us),
            _mixed(self.prefill_ns, status.layer_prefill_ns),
        )


def _mixed(before: float, now: int) -> float:
    if not before or not now:
        return float(now)
    return before + NEWEST_SHARE * (now - before)


@dataclass(slots=True)
class Worker:
    """The newest beat of one node, and when it was heard.

    suspects: when a driver reported an engine of this beat as lost, by its incarnation.
    """

    beat: pb.WorkerBeat
    heard_at_s: float
    suspects: dict[str, float] = field(default_factory=dict)
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=RETIRED_COUNT_MAX))
    times: dict[str, _Times] = field(default_factory=dict)
    """Measured times of its engines by incarnation, smoothed over beats."""
    rtts_us: dict[str, int] | None = None
    """By node, from the newest beat; made when somebody asks."""
    engines: tuple[Engine, ...] | None = None
    """Ready ones of the newest beat; made when somebody asks."""

    def take(self, beat: pb.WorkerBeat, now_s: float) -> None:
        """A newer beat."""
        self.beat, self.heard_at_s = beat, now_s
        self.rtts_us = self.engines = None
        self.times = {
            e.incarnation: self.times.get(e.incarnation, _Times()).mixed(e)
            for e in beat.engines
            if e.state == pb.ENGINE_STATE_READY
        }

    def is_alive(self, now_s: float, timeout_s: float) -> bool:
        return not self.beat.is_leaving and now_s - self.heard_at_s <= timeout_s

    def clear_suspects(self, suspect_s: float) -> bool:
        """Takes back suspicions that the newest beat refutes; True if one was.

        A beat speaks for an engine when it was heard `suspect_s` or more after the report: a sooner
        one may have been sent before the loss. What the beat no longer names is gone for good.
        """
        states = {engine.incarnation: engine.state for engine in self.beat.engines}
        before = len(self.suspects)
        self.suspects = {
            incarnation: reported_at_s
            for incarnation, reported_at_s in self.suspects.items()
            if incarnation in states
            and (
                states[incarnation] != pb.ENGINE_STATE_READY
                or self.heard_at_s - reported_at_s < suspect_s
            )
        }
        return len(self.suspects) < before


class FleetView:
    """Invariants: at most `node_count_max` nodes; per node the sequence of its agent only grows.

    A node that left or went silent stays visible, without being used, for `forget_after_s`, so that
    its late beats are recognised and its models are known to exist.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        heartbeat_timeout_s: float = 3.0,
        forget_after_s: float = 60.0,
        suspect_s: float = 1.0,
        node_count_max: int = 1024,
    ) -> None:
        self._clock = clock
        self._timeout_s = heartbeat_timeout_s
        self._forget_after_s = forget_after_s
        self._suspect_s = suspect_s
        self._node_count_max = node_count_max
        self._workers: dict[str, Worker] = {}
        self.version = 0
        """Grows whenever an engine comes, goes or changes its state."""

    def hear(self, beat: pb.WorkerBeat) -> BeatOutcome:
        """Takes one checked beat in."""
        known = self._workers.get(beat.node_id)
        if known is None:
            return self._join(beat)
        if beat.incarnation in known.retired:
            return BeatOutcome.LATE
        if beat.incarnation != known.beat.incarnation:
            return self._rejoin(known, beat)
        if beat.sequence <= known.beat.sequence:
            return BeatOutcome.LATE
        return self._update(known, beat)

    def workers(self) -> Iterator[tuple[Worker, float, bool]]:
        """Every node that is remembered: (worker, silent for seconds, is alive)."""
        now_s = self._clock.monotonic()
        for worker in self._workers.values():
            yield worker, now_s - worker.heard_at_s, worker.is_alive(now_s, self._timeout_s)

    def alive_count(self) -> int:
        return sum(is_alive for _, _, is_alive in self.workers())

    def engines(self) -> tuple[Engine, ...]:
        """What may be named in a plan now: ready, of living nodes, not suspected."""
        self._trim()
        found: list[Engine] = []
        for worker, _, is_alive in self.workers():
            if not is_alive:
                continue
            if worker.engines is None:
                worker.engines = _engines(worker)
            found += (e for e in worker.engines if e.incarnation not in worker.suspects)
        return tuple(found)

    def rtt_us(self, source: str, target: str) -> int:
        """The round trip between two nodes, as either has measured it; 0 where neither has."""
        for node_id, other in ((source, target), (target, source)):
            worker = self._workers.get(node_id)
            if worker is None:
                continue
            if worker.rtts_us is None:
                worker.rtts_us = {link.node_id: link.rtt_us for link in worker.beat.links}
            if rtt_us := worker.rtts_us.get(other, 0):
                return rtt_us
        return 0

    def incarnations(self) -> set[str]:
        """Of all engine processes that remembered workers have named last."""
        return {e.incarnation for worker in self._workers.values() for e in worker.beat.engines}

    def statuses(self, model: str, *, living_only: bool = True) -> tuple[pb.EngineStatus, ...]:
        """What workers say of their engines of a model, in whatever state."""
        return tuple(
            status
            for worker, _, is_alive in self.workers()
            if is_alive or not living_only
            for status in worker.beat.engines
            if status.model == model
        )

    def models(self) -> tuple[str, ...]:
        """Every model that a remembered worker has named, sorted."""
        return tuple(
            sorted({e.model for worker in self._workers.values() for e in worker.beat.engines})
        )

    def suspect(self, node_id: str, incarnation: str) -> None:
        """Leaves one engine process out at once: a driver has lost it.

        It stays out until a beat heard `suspect_s` or more from now still calls it ready. A
        restarted engine has another incarnation and is not touched.
        """
        worker = self._workers.get(node_id)
        if worker is None or all(e.incarnation != incarnation for e in worker.beat.engines):
            return
        worker.suspects[incarnation] = self._clock.monotonic()
        self.version += 1
        log.warning("engine suspected", extra={"node_id": node_id})

    def next_change_s(self) -> float:
        """When silence changes the view, if nothing is heard before."""
        now_s = self._clock.monotonic()
        ends = [
            worker.heard_at_s + self._timeout_s
            for worker in self._workers.values()
            if worker.is_alive(now_s, self._timeout_s)
        ]
        return min(ends, default=float("inf"))

    def _join(self, beat: pb.WorkerBeat) -> BeatOutcome:
        if beat.is_leaving:
            return BeatOutcome.LATE
        self._trim()
        if len(self._workers) >= self._node_count_max and not self._evict_one_dead():
            return BeatOutcome.REFUSED
        now_s = self._clock.monotonic()
        worker = self._workers[beat.node_id] = Worker(beat, now_s)
        worker.take(beat, now_s)
        self.version += 1
        log.info("worker joined", extra={"node_id": beat.node_id, "engines": len(beat.engines)})
        return BeatOutcome.JOINED

    def _rejoin(self, known: Worker, beat: pb.WorkerBeat) -> BeatOutcome:
        known.retired.append(known.beat.incarnation)
        known.take(beat, self._clock.monotonic())
        known.clear_suspects(self._suspect_s)
        self.version += 1
        log.info("worker rejoined", extra={"node_id": beat.node_id, "engines": len(beat.engines)})
        return BeatOutcome.LEFT if beat.is_leaving else BeatOutcome.REJOINED

    def _update(self, known: Worker, beat: pb.WorkerBeat) -> BeatOutcome:
        if known.beat.is_leaving and not beat.is_leaving:
            return BeatOutcome.LATE
        now_s = self._clock.monotonic()
        was_alive = known.is_alive(now_s, self._timeout_s)
        is_same = was_alive and _identities(known.beat) == _identities(beat)
        known.take(beat, now_s)
        is_same &= not known.clear_suspects(self._suspect_s)
        if beat.is_leaving:
            self.version += 1
            log.info("worker left", extra={"node_id": beat.node_id})
            return BeatOutcome.LEFT
        self.version += not is_same
        return BeatOutcome.UPDATED

    def _trim(self) -> None:
        now_s = self._clock.monotonic()
        for node_id, worker in list(self._workers.items()):
            if now_s - worker.heard_at_s > self._forget_after_s:
                del self._workers[node_id]
                log.info("worker forgotten", extra={"node_id": node_id})

    def _evict_one_dead(self) -> bool:
        now_s = self._clock.monotonic()
        dead = [
            (worker.heard_at_s, node_id)
            for node_id, worker in self._workers.items()
            if not worker.is_alive(now_s, self._timeout_s)
        ]
        if not dead:
            return False
        del self._workers[min(dead)[1]]
        return True


def _identities(beat: pb.WorkerBeat) -> list[tuple[str, str, int, str]]:
    return [(e.model, e.incarnation, e.state, e.locator) for e in beat.engines]


def _engines(worker: Worker) -> tuple[Engine, ...]:
    beat = worker.beat
    return tuple(
        Engine(
            node_id=beat.node_id,
            incarnation=status.incarnation,
            model=status.model,
            revision=status.revision,
            layer_start=status.layer_start,
            layer_stop=status.layer_stop,
            layer_count=status.layer_count,
            locator=status.locator,
            block_size_tokens=status.block_size_tokens,
            context_length=status.context_length,
            layer_time_us=round(worker.times[status.incarnation].layer_us),
            head_layers=status.head_layers,
            layer_prefill_ns=round(worker.times[status.incarnation].prefill_ns),
            running_max=status.running_max,
            kv_format=status.kv_format,
            shares_prefixes=status.shares_prefixes,
            host_id=beat.host_id,
            region=beat.region,
            reach=beat.reach,
        )
        for status in beat.engines
        if status.state == pb.ENGINE_STATE_READY
    )
