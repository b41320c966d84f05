"""How long a request for a plan takes at the router, with a thousand workers that beat.

Everything but the wire runs as in the service, on one event loop: beats come in, pipelines are
searched in the background, prefixes are looked up, plans are opened and closed. A request's time is
counted from the moment it is due (`plan_ms`), so that whatever holds the loop up is part of it;
`call_ms` is the call alone, `call_cpu_ms` what it takes of a core, whoever else uses the machine.

    python -m bench.routing.plan_time --workers 1000 --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from shoal.worker.v1 import kv_pb2
from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_common.clock import SystemClock
from shoal_router.admission import Admission, Bounds
from shoal_router.announcements import Announcements
from shoal_router.fleet_view import FleetView
from shoal_router.flow import FlowOptions
from shoal_router.formation import Formation, FormationOptions
from shoal_router.loading import LoadOptions, Loads
from shoal_router.metrics import Metrics
from shoal_router.offers import OfferOptions, Offers
from shoal_router.orders import Orders
from shoal_router.planner import Planner, PlannerOptions
from shoal_router.policy import Policy, PolicyOptions
from shoal_router.prefix_index import PrefixIndex
from shoal_router.request import Request
from shoal_router.sessions import NoStore, Sessions
from shoal_router.testing import FakeAgents
from shoal_router.ticket import Ticket

MODEL = "heavyweight"
LAYER_COUNT = 32
REGION_COUNT = 4
BLOCKS_PER_PROMPT = 128
BLOCK_TOKENS = 16
IN_FLIGHT_TARGET = 64


@dataclass
class Times:
    """Milliseconds of single events."""

    plans: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def report(self) -> dict[str, float]:
        found = {"plan_count": float(len(self.plans))}
        named = {"plan_ms": self.plans, "call_ms": self.calls, "call_cpu_ms": self.cpu}
        for name, values in named.items():
            ordered = sorted(values)
            for share in (0.5, 0.99, 0.999):
                index = min(len(ordered) - 1, int(len(ordered) * share))
                found[f"{name}_p{share * 100:g}"] = round(ordered[index], 3)
            found[f"{name}_max"] = round(ordered[-1], 3)
        return found


class Site:
    """A router without its wire, and the workers that beat to it."""

    def __init__(self, worker_count: int, rng: random.Random) -> None:
        clock = SystemClock()
        self.rng = rng
        self.view = FleetView(clock, heartbeat_timeout_s=60.0, node_count_max=65536)
        self.admission = Admission(Bounds(in_flight_max=32), clock=clock)
        self.index = PrefixIndex(500_000)
        self.formation = Formation(self.view, clock, FormationOptions(FlowOptions()))
        policy = Policy(
            self.index,
            Sessions(clock, NoStore(), ttl_s=3600.0, count_max=100_000),
            self.admission.plans_on,
            self.formation.times,
            PolicyOptions(),
        )
        announcements = Announcements(clock, 7.0)
        orders = Orders(FakeAgents(), clock)
        offers = Offers(self.view, announcements, orders, OfferOptions())
        metrics = Metrics(CollectorRegistry())
        loads = Loads(self.view, announcements, offers, orders, clock, LoadOptions(), metrics)
        self.planner = Planner(
            self.view,
            self.formation,
            policy,
            self.admission,
            clock,
            PlannerOptions(),
            announcements,
            loads,
        )
        self.beats = [self._beat(index) for index in range(worker_count)]

    def _beat(self, index: int) -> pb.WorkerBeat:
        size = self.rng.choice((4, 8, 11, 16, 32))
        start = self.rng.randrange(0, LAYER_COUNT - size + 1)
        layer_us = round(1000 * self.rng.lognormvariate(0, 0.7))
        engine = pb.EngineStatus(
            model=MODEL,
            revision="r1",
            layer_start=start,
            layer_stop=start + size,
            layer_count=LAYER_COUNT,
            state=pb.ENGINE_STATE_READY,
            locator=f"grpc:10.0.0.1:{index}",
            incarnation=f"engine-{index}",
            block_size_tokens=BLOCK_TOKENS,
            context_length=32768,
            layer_time_us=layer_us,
            layer_prefill_ns=layer_us * 100,
            running_max=16,
            kv_format="bf16",
        )
        region = f"region-{index % REGION_COUNT}"
        return pb.WorkerBeat(
            node_id=f"node-{index}", incarnation="agent", region=region, engines=[engine]
        )

    def hear(self, beat: pb.WorkerBeat) -> None:
        """As it comes from the bus; times wander a little."""
        beat.sequence += 1
        for engine in beat.engines:
            wandered = engine.layer_time_us * self.rng.uniform(0.97, 1.03)
            engine.layer_time_us = max(1, round(wandered))
        self.view.hear(pb.WorkerBeat.FromString(beat.SerializeToString()))
        self.planner.refresh()

    def request(self, number: int) -> Request:
        """One of 64 sessions, whose prompts grow and share their first blocks."""
        session = number % 64
        blocks = tuple(
            session.to_bytes(8, "little") + block.to_bytes(8, "little")
            for block in range(BLOCKS_PER_PROMPT)
        )
        return Request(
            f"request-{number}",
            MODEL,
            prompt_token_count=BLOCKS_PER_PROMPT * BLOCK_TOKENS + 8,
            max_tokens=256,
            session_id=f"session-{session}" if number % 2 else "",
            prefix_block_hashes=blocks,
        )

    def remember(self, ticket: Ticket) -> None:
        """Its stages tell what they hold now."""
        assert ticket.pipeline is not None
        for stage in ticket.pipeline.stages:
            self.index.hear(
                kv_pb2.KvChanges(
                    node_id=stage.node_id,
                    incarnation=stage.incarnation,
                    layer_start=stage.layer_start,
                    layer_stop=stage.layer_stop,
                    sequence=1,
                    is_snapshot=True,
                    stored=ticket.request.prefix_block_hashes,
                )
            )


async def beating(site: Site) -> None:
    """Every worker once a second, evenly."""
    while True:
        started = time.monotonic()
        for index, beat in enumerate(site.beats):
            site.hear(beat)
            ahead_s = started + index / len(site.beats) - time.monotonic()
            await asyncio.sleep(max(0.0, ahead_s) if index % 8 == 0 else 0)


async def ticking(site: Site) -> None:
    while True:
        await asyncio.sleep(0.25)
        site.planner.refresh()
        await site.planner.work()


async def asking(site: Site, rate_per_s: float, seconds: float) -> Times:
    """Requests at a steady rate; the oldest plans end when enough are held."""
    times = Times()
    held: list[Ticket] = []
    begin = time.perf_counter()
    for number in range(round(rate_per_s * seconds)):
        due = begin + number / rate_per_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        request = site.request(number)
        called, called_cpu = time.perf_counter(), time.thread_time()
        ticket = site.planner.open(request)
        if ticket.pipeline is not None:
            site.planner.details(ticket)
        done, done_cpu = time.perf_counter(), time.thread_time()
        times.calls.append((done - called) * 1000)
        times.cpu.append((done_cpu - called_cpu) * 1000)
        times.plans.append((done - due) * 1000)
        held.append(ticket)
        if ticket.pipeline is not None and number % 4 == 0:
            site.remember(ticket)
        if len(held) > IN_FLIGHT_TARGET:
            site.planner.close(held.pop(0))
    return times


async def measure(worker_count: int, rate_per_s: float, seconds: float, seed: int) -> Times:
    site = Site(worker_count, random.Random(seed))
    for beat in site.beats:
        site.view.hear(beat)
    site.planner.refresh()
    await site.planner.work()
    tasks = [asyncio.create_task(beating(site)), asyncio.create_task(ticking(site))]
    try:
        return await asking(site, rate_per_s, seconds)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(argv)
    times = asyncio.run(measure(options.workers, options.rate, options.seconds, options.seed))
    figures = {"workers": options.workers, "seed": options.seed} | times.report()
    json.dump(figures, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
