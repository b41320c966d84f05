"""Owns: what the router counts. Labels come from closed sets, never from ids."""

from __future__ import annotations

from enum import Enum
from functools import partial

from prometheus_client import CollectorRegistry

from shoal_common.metrics import RequestMetrics, counter, gauge, histogram
from shoal_router.admission import Admission
from shoal_router.fleet_view import BeatOutcome, FleetView
from shoal_router.rebalance import MoveKind
from shoal_router.tiers import Tier

SERVICE = "router"


class LoadOutcome(Enum):
    """How a load that somebody waited for ended, as counted."""

    LOADED = "loaded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = RequestMetrics(registry, SERVICE)
        self._beats = counter(registry, SERVICE, "beats", "Beats by outcome.", ("outcome",))
        self._loads = counter(
            registry, SERVICE, "loads", "Models loaded on demand, by outcome.", ("outcome",)
        )
        self._moves = counter(registry, SERVICE, "moves", "Orders given by rebalancing.", ("kind",))
        self._announcements = counter(
            registry, SERVICE, "announcements", "Announced models by outcome.", ("outcome",)
        )
        self._plans = counter(registry, SERVICE, "plans", "Plans handed out.", ("kind",))
        self._wait = histogram(
            registry,
            SERVICE,
            "plan_wait_seconds",
            "From opening a plan stream to its first plan.",
            ("tier",),
        )
        self._first_token = histogram(
            registry, SERVICE, "time_to_first_token_seconds", "As drivers report it."
        )
        self._in_flight = gauge(registry, SERVICE, "plans_in_flight", "Plans held now.")
        self._waiting = gauge(
            registry, SERVICE, "plans_waiting", "Requests in the queue.", ("tier",)
        )
        self._workers = gauge(registry, SERVICE, "workers_alive", "Workers heard of lately.")

    def watch(self, view: FleetView, admission: Admission) -> None:
        """Reads gauges from their owners whenever someone scrapes."""
        self._in_flight.set_function(lambda: admission.in_flight_count)
        for tier in Tier:
            self._waiting.labels(tier.name.lower()).set_function(
                partial(admission.waiting_by_tier, tier)
            )
        self._workers.set_function(view.alive_count)

    def count_beat(self, outcome: BeatOutcome) -> None:
        self._beats.labels(outcome.value).inc()

    def count_load(self, outcome: LoadOutcome) -> None:
        self._loads.labels(outcome.value).inc()

    def count_move(self, kind: MoveKind) -> None:
        self._moves.labels(kind.value).inc()

    def count_announcement(self, *, is_malformed: bool) -> None:
        self._announcements.labels("malformed" if is_malformed else "heard").inc()

    def count_plan(self, attempt: int, waited_s: float, tier: Tier) -> None:
        self._plans.labels("first" if attempt == 1 else "replacement").inc()
        if attempt == 1:
            self._wait.labels(tier.name.lower()).observe(waited_s)

    def observe_first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)
