"""Wiring, in order of life. The only module that knows everyone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from shoal.router.v1 import router_pb2_grpc
from shoal_common import log as shoal_log
from shoal_common.app import run_service, until_signal, write_ready_file
from shoal_common.bus import Bus, NatsBus
from shoal_common.clock import Clock, SystemClock
from shoal_common.metrics import new_registry
from shoal_common.rpc import RpcServer, Serve
from shoal_common.settings import load
from shoal_common.side import SideServer
from shoal_router import beats
from shoal_router.admission import Admission, Bounds
from shoal_router.announcements import SUBJECT as ANNOUNCEMENTS
from shoal_router.announcements import Announcements, parse_announcement
from shoal_router.errors import MalformedAnnouncement, MalformedBeat
from shoal_router.explain import Explainer, Weigh, Weighed
from shoal_router.fleet_view import BeatOutcome, FleetView
from shoal_router.flow import FlowOptions
from shoal_router.formation import Formation, FormationOptions
from shoal_router.kv_listener import SUBJECT as KV
from shoal_router.kv_listener import KvListener
from shoal_router.loading import LoadOptions, Loads
from shoal_router.metrics import Metrics
from shoal_router.offers import MIB, OfferOptions, Offers
from shoal_router.orders import Orders
from shoal_router.peers import Agents, GrpcAgents
from shoal_router.pipeline import Costs, Pipeline
from shoal_router.placement import Links
from shoal_router.planner import Planner, PlannerOptions
from shoal_router.policy import Policy, PolicyOptions
from shoal_router.prefix_index import PrefixIndex
from shoal_router.rebalance import RebalanceOptions, Rebalancer
from shoal_router.rebalancing import Rebalancing
from shoal_router.rpc import RouterRpc
from shoal_router.session_store import session_store
from shoal_router.sessions import Sessions, SessionStore
from shoal_router.settings import Settings
from shoal_router.ticket import Ticket
from shoal_router.tiers import FixedTiers, Tier

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the router until SIGTERM or SIGINT."""
    settings = load(Settings, argv)
    shoal_log.setup("router", settings.fleet.log_level, settings.fleet.log_format)
    run_service(lambda: run(settings))


async def run(settings: Settings) -> None:
    token = settings.fleet.secret_token()
    bus = await NatsBus.connect(settings.fleet.nats_url, token=token, name="router")
    try:
        async with running(settings, bus, SystemClock()) as router:
            write_ready_file(
                settings.ready_file, grpc=router.grpc_address, side=router.side_address, http=""
            )
            await until_signal()
    finally:
        await bus.close()


@dataclass(frozen=True, slots=True)
class Router:
    """A router that runs."""

    grpc_address: str
    side_address: str
    metrics: Metrics
    planner: Planner


@asynccontextmanager
async def running(
    settings: Settings,
    bus: Bus,
    clock: Clock,
    agents: Agents | None = None,
    serve: Serve = RpcServer,
) -> AsyncIterator[Router]:
    """The router while the context is open. Leaving it drains the plans, then stops listening.

    bus: connected; stays open. It is ready once it hears beats and serves. agents: whom orders go
    to, over gRPC unless said.
    """
    metrics = Metrics(new_registry())
    view = _view(settings, clock)
    admission = Admission(_bounds(settings), _tiers(settings), clock)
    announcements = Announcements(clock, settings.announce_timeout_s)
    agents = agents or GrpcAgents(settings.fleet.secret_token(), settings.load_call_timeout_s)
    orders = Orders(agents, clock)
    offers = Offers(view, announcements, orders, _offer_options(settings))
    loads = Loads(view, announcements, offers, orders, clock, _load_options(settings), metrics)
    routing = _routing(settings, view, admission, bus, clock)
    planner = Planner(
        view,
        routing.formation,
        routing.policy,
        admission,
        clock,
        _planner_options(settings),
        announcements,
        loads,
    )
    rebalancing = _rebalancing(settings, view, offers, orders, loads, admission, metrics, clock)
    metrics.watch(view, admission)
    explainer = Explainer(planner, admission, offers.considered, _weighing(routing.policy))
    servicer = RouterRpc(
        planner, view, metrics, clock, admission, explainer, open_timeout_s=settings.open_timeout_s
    )
    server = _server(settings, servicer, serve)
    listener = Listener(view, announcements, planner, metrics, routing.kv)
    is_ready = False
    async with AsyncExitStack() as stack:
        side = SideServer(settings.side_address, metrics.registry, lambda: is_ready)
        side_address = await side.start()
        stack.push_async_callback(side.stop)
        for subject, handler in (
            (beats.SUBJECT, listener.on_beat),
            (ANNOUNCEMENTS, listener.on_announcement),
            (KV, routing.kv.on_kv),
        ):
            subscription = await bus.subscribe(subject, handler, queue_size=4096)
            stack.push_async_callback(subscription.stop)
        stack.push_async_callback(routing.kv.close)
        stack.push_async_callback(routing.store.close)
        stack.push_async_callback(orders.stop)
        works = [
            tick(planner, view, routing.kv, clock, settings.tick_s),
            routing.sessions.keep_copy(),
        ]
        works += [rebalancing.run(settings.rebalance_tick_s)] if settings.rebalance else []
        for work in works:
            stack.push_async_callback(_cancelled, asyncio.create_task(work))
        grpc_address = await server.start()
        stack.push_async_callback(server.stop)
        try:
            is_ready = True
            yield Router(grpc_address, side_address, metrics, planner)
        finally:
            is_ready = False


class Listener:
    """Takes beats and announcements from the bus; what is neither is counted and dropped."""

    def __init__(
        self,
        view: FleetView,
        announcements: Announcements,
        planner: Planner,
        metrics: Metrics,
        kv: KvListener,
    ) -> None:
        self._kv = kv
        self._view = view
        self._announcements = announcements
        self._planner = planner
        self._metrics = metrics

    async def on_beat(self, subject: str, payload: bytes) -> None:
        try:
            beat = beats.parse_beat(subject, payload)
        except MalformedBeat as err:
            self._metrics.count_beat(BeatOutcome.MALFORMED)
            log.warning("beat malformed", extra={"detail": str(err)})
            return
        self._metrics.count_beat(self._view.hear(beat))
        self._kv.on_beat(beat)
        self._planner.refresh()

    async def on_announcement(self, subject: str, payload: bytes) -> None:
        try:
            announcement = parse_announcement(payload)
        except MalformedAnnouncement as err:
            self._metrics.count_announcement(is_malformed=True)
            log.warning("announcement malformed", extra={"detail": str(err)})
            return
        self._metrics.count_announcement(is_malformed=False)
        self._announcements.hear(announcement)


async def tick(
    planner: Planner, view: FleetView, kv: KvListener, clock: Clock, tick_s: float
) -> None:
    """Lets those who wait see workers that went silent, and does what takes longer than a request
    should wait. Runs until it is cancelled."""
    while True:
        await clock.sleep(tick_s)
        try:
            planner.refresh()
            kv.keep(view.incarnations())
            await planner.work()
        except Exception:
            log.exception("looking at the fleet failed")


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Routing:
    """What decides which way requests go."""

    formation: Formation
    policy: Policy
    sessions: Sessions
    store: SessionStore
    kv: KvListener


def _routing(
    settings: Settings, view: FleetView, admission: Admission, bus: Bus, clock: Clock
) -> _Routing:
    index = PrefixIndex(settings.prefix_blocks_max)
    store = session_store(settings.redis_url)
    sessions = Sessions(clock, store, ttl_s=settings.session_ttl_s, count_max=settings.sessions_max)
    formation = Formation(view, clock, _formation_options(settings))
    options = PolicyOptions(settings.spread_count, settings.spread_factor, settings.row_cost)
    policy = Policy(index, sessions, admission.plans_on, formation.times, options)
    return _Routing(formation, policy, sessions, store, KvListener(bus, index, clock))


def _weighing(policy: Policy) -> Weigh:
    def weigh(ticket: Ticket, pipelines: Sequence[Pipeline]) -> list[Weighed]:
        return [
            Weighed(
                found.cost_us,
                found.held_token_count,
                is_crowded=found.is_crowded,
                refusal=""
                if ticket.may_use(found.pipeline)
                else "it does not keep to the privacy asked for",
            )
            for found in policy.candidates(ticket.request, pipelines)
        ]

    return weigh


def _load_options(settings: Settings) -> LoadOptions:
    return LoadOptions(
        wait_s=settings.load_wait_s,
        retry_s=settings.load_retry_s,
    )


def _view(settings: Settings, clock: Clock) -> FleetView:
    return FleetView(
        clock,
        heartbeat_timeout_s=settings.heartbeat_timeout_s,
        forget_after_s=settings.forget_after_s,
        suspect_s=settings.suspect_s,
        node_count_max=settings.node_count_max,
    )


def _rebalancing(
    settings: Settings,
    view: FleetView,
    offers: Offers,
    orders: Orders,
    loads: Loads,
    admission: Admission,
    metrics: Metrics,
    clock: Clock,
) -> Rebalancing:
    return Rebalancing(
        view,
        offers,
        orders,
        loads,
        Rebalancer(_rebalance_options(settings)),
        admission.waiting_models,
        clock,
        metrics,
        drain_s=settings.rebalance_drain_s,
        used_s=settings.rebalance_horizon_s,
    )


def _rebalance_options(settings: Settings) -> RebalanceOptions:
    return RebalanceOptions(
        gain=settings.rebalance_gain,
        horizon_s=settings.rebalance_horizon_s,
        ticks=settings.rebalance_ticks,
        cooldown_s=settings.rebalance_cooldown_s,
        replicas_min=settings.rebalance_min_replicas,
    )


def _offer_options(settings: Settings) -> OfferOptions:
    return OfferOptions(
        overhead_bytes=settings.load_overhead_mb * MIB,
        kv_tokens=settings.load_kv_tokens,
        links=Links(
            local_us=settings.local_link_us,
            region_us=settings.link_us,
            far_us=settings.far_link_us,
        ),
    )


def _server(settings: Settings, servicer: RouterRpc, serve: Serve) -> RpcServer:
    server = serve(
        settings.listen_address,
        token=settings.fleet.secret_token(),
        drain_timeout_s=settings.drain_timeout_s,
    )
    server.add(
        router_pb2_grpc.add_RouterServiceServicer_to_server,
        servicer,
        "shoal.router.v1.RouterService",
    )
    return server


def _bounds(settings: Settings) -> Bounds:
    return Bounds(settings.in_flight_max, settings.waiting_max, settings.max_concurrent_requests)


def _tiers(settings: Settings) -> FixedTiers:
    return FixedTiers(
        Tier[settings.default_tier.upper()],
        {tenant: Tier[name.upper()] for tenant, name in settings.tenant_tiers.items()},
        settings.guest_tenants,
    )


def _formation_options(settings: Settings) -> FormationOptions:
    costs = Costs(
        layer_time_us=settings.layer_time_us,
        link_us=settings.link_us,
        local_link_us=settings.local_link_us,
        far_link_us=settings.far_link_us,
        visit_us=settings.visit_us,
    )
    flow = FlowOptions(
        count_max=settings.pipelines_per_model, uses_parts=settings.partial_ranges, costs=costs
    )
    return FormationOptions(flow, search_s=settings.flow_interval_s)


def _planner_options(settings: Settings) -> PlannerOptions:
    return PlannerOptions(
        plan_wait_s=settings.plan_wait_s,
        starting_s=settings.heartbeat_timeout_s,
    )
