"""What must hold in every history. A breach is a sentence; a right history has none."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from shoal.router.v1 import router_pb2
from shoal_common.testing.virtual_time import PROCESS, tasks_of
from tests.sim.clients import Seen
from tests.sim.fleet import EngineProcess, Fleet, GatewayProcess
from tests.sim.scenario import LAYER_COUNT, Kind, Scenario, What

# A worker that went silent may be planned with for so long: its last beat is believed for 3 s, the
# fleet is looked at every 0.25 s, an agent notices its hung engine within 2.5 s.
_PLANNED_S_MAX = 4.0
_WAIT_S_MAX = 10.0
_HELD_OPEN = ("Link", "Results")


class Breaches(logging.Handler):
    """Collects what was found wrong, unforeseen errors in logs among it."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []
        self.errors: list[BaseException] = []
        """The exceptions among them."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            error = record.exc_info[1]
            if error is not None:
                self.errors.append(error)
            self.add(f"{PROCESS.get()} logged {record.getMessage()}: {error!r}")

    def loop_said(self, loop: Any, context: dict[str, Any]) -> None:
        """An exception that nobody has taken, in the loop's own words."""
        error = context.get("exception")
        if error is not None:
            self.errors.append(error)
        self.add(f"{context['message'].splitlines()[0]}: {error!r}")

    def add(self, breach: str) -> None:
        if breach not in self.found:
            self.found.append(breach)


class PlanWatch:
    """Looks at every plan that a gateway gets."""

    def __init__(self, breaches: Breaches) -> None:
        self.fleet: Fleet
        self._breaches = breaches

    def watched(self, router: Any, gateway: GatewayProcess) -> Any:
        """The router, with open eyes behind it."""
        return _WatchedRouter(router, self)

    def seen(self, request_id: str, plan: router_pb2.Plan) -> None:
        stages = plan.pipeline.stages
        covered = 0
        for stage in stages:
            if stage.layer_start != covered:
                self._breaches.add(f"{request_id}: a plan whose stages do not join")
            covered = stage.layer_stop
            engine = self.fleet.engines.get(stage.incarnation)
            if engine is None:
                self._breaches.add(f"{request_id}: a plan with an engine that never was")
            else:
                self._check(request_id, engine)
        if covered != LAYER_COUNT:
            self._breaches.add(f"{request_id}: a plan that covers {covered} layers")

    def _check(self, request_id: str, engine: EngineProcess) -> None:
        since_s = engine.silent_since_s
        if since_s is None or self._is_view_clouded():
            return
        silent_s = self.fleet.loop.time() - since_s
        late_s = self.fleet.scenario.late_s_max if self.fleet.scenario.late_share else 0.0
        if silent_s > _PLANNED_S_MAX + late_s:
            self._breaches.add(
                f"{request_id}: a plan with {engine.name}, silent for {silent_s:.2f} s"
            )

    def _is_view_clouded(self) -> bool:
        """The router was not itself lately, or its plans travel slowly."""
        now_s = self.fleet.loop.time() - 1000.0
        return any(
            fault.at_s <= now_s <= fault.ends_at_s + 5.0
            for fault in self.fleet.scenario.faults
            if fault.what in (What.HANG_ROUTER, What.RESTART_ROUTER)
            or {fault.target, fault.other} & {"router", "gateway0", "gateway1"}
        )


class _WatchedRouter:
    def __init__(self, router: Any, watch: PlanWatch) -> None:
        self._router = router
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    def open_plan(self, request: router_pb2.PlanOpen) -> Any:
        return _WatchedPlan(self._router.open_plan(request), request.request_id, self._watch)


class _WatchedPlan:
    def __init__(self, plan: Any, request_id: str, watch: PlanWatch) -> None:
        self._plan = plan
        self._request_id = request_id
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)

    async def __aenter__(self) -> _WatchedPlan:
        await self._plan.__aenter__()
        return self

    async def __aexit__(self, *failure: Any) -> None:
        await self._plan.__aexit__(*failure)

    async def next(self) -> router_pb2.PlanResponse:
        response: router_pb2.PlanResponse = await self._plan.next()
        if response.HasField("plan"):
            self._watch.seen(self._request_id, response.plan)
        return response


def check_request(seen: Seen, scenario: Scenario, breaches: Breaches) -> None:
    """Tokens in order, once, and the right ones; one end; no long silence."""
    name = seen.request.name
    if tuple(seen.ids) != seen.said[: len(seen.ids)]:
        pairs = zip(seen.ids, (*seen.said, -1), strict=False)
        at = next(index for index, (got, right) in enumerate(pairs) if got != right)
        breaches.add(f"{name}: token {at} of {len(seen.said)} is wrong")
    if len(seen.ends) > 1:
        breaches.add(f"{name}: it ended {len(seen.ends)} times: {seen.ends}")
    if seen.finished is not None and len(seen.ids) != len(seen.said):
        breaches.add(f"{name}: it finished after {len(seen.ids)} of {len(seen.said)} tokens")
    if seen.finished is not None and seen.finished.usage.completion_tokens != len(seen.expected):
        breaches.add(f"{name}: its usage says {seen.finished.usage.completion_tokens} tokens")
    if seen.gateway is not None and seen.gateway.is_dead:
        return
    if any(end.startswith(("crash", "nothing more")) for end in seen.ends):
        breaches.add(f"{name}: {seen.ends[0]}")
    if seen.error is not None and scenario.kind is not Kind.STORM:
        breaches.add(f"{name}: {seen.ends[0]}, though it could have been served")
    if seen.longest_wait_s > _WAIT_S_MAX and not _is_slow(scenario):
        breaches.add(f"{name}: silent for {seen.longest_wait_s:.1f} s in the middle")


def _is_slow(scenario: Scenario) -> bool:
    """Somebody may wait for long without anything being lost: for KV, or for a slow machine."""
    return scenario.is_short_of_kv or any(f.what is What.SLOW_STEPS for f in scenario.faults)


def check_quiet(fleet: Fleet, breaches: Breaches) -> None:
    """Nobody holds anything when every request is over."""
    for process in list(fleet.processes.values()):
        if isinstance(process, EngineProcess) and process.ready.is_set():
            _check_engine(process, breaches)
    if fleet.router is not None and not fleet.router.is_dead:
        for gauge in ("plans_in_flight", "plans_waiting"):
            if count := fleet.router.gauge(gauge):
                breaches.add(f"router: {gauge} is {count:g} when all is quiet")
    _check_calls(fleet, breaches)
    for server in fleet.servers:
        if server.fault_count:
            breaches.add(f"{server.address}: {server.fault_count} calls ended in a fault")


def _check_engine(process: EngineProcess, breaches: Breaches) -> None:
    engine, name = process.engine, process.name
    core, backend = engine.core, engine.core.backend
    if len(core.table):
        breaches.add(f"{name}: {len(core.table)} sequences are attached when all is quiet")
    if backend.blocks_free != backend.blocks_total:
        held = backend.blocks_total - backend.blocks_free
        breaches.add(f"{name}: {held} KV blocks are held when all is quiet")
    for count, what in (
        (engine.head.running_count, "generations run"),
        (engine.head.waiting_count, "generations wait"),
        (core.queue_length, "steps wait"),
    ):
        if count:
            breaches.add(f"{name}: {count} {what} when all is quiet")


def _check_calls(fleet: Fleet, breaches: Breaches) -> None:
    """Only links and results stay open, one of each between two engines."""
    held: Counter[tuple[str, str, str]] = Counter()
    for call in fleet.network.open_calls:
        method = call.method.rpartition("/")[2]
        ends = (call.source, call.target)
        if method == "GetEngine" or not all(end in fleet.processes for end in ends):
            continue
        if method not in _HELD_OPEN:
            breaches.add(f"{method} from {ends[0]} to {ends[1]} is open when all is quiet")
        else:
            held[(method, *ends)] += 1
    for (method, source, target), count in held.items():
        if count > 1:
            breaches.add(f"{count} {method} streams from {source} to {target} when all is quiet")


def check_stopped(fleet: Fleet, names: list[str], breaches: Breaches) -> None:
    """Processes that ended in order have left no task."""
    for name in names:
        for task in tasks_of(fleet.loop, name):
            coro = task.get_coro()
            breaches.add(f"{name} left the task {getattr(coro, '__qualname__', coro)}")
