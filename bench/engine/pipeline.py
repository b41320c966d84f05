"""Pipelines: over a slow wire against a hub, and over two cores against one.

The slow wire. Three stages stand 20 ms apart, each behind a delay proxy. In our pipeline the
activations go from stage to stage and the token id from the last stage straight to the first: three
hops of one delay per token. With a hub, as in systems whose client or coordinator carries the
activations, every hop goes to the hub and from there to the next stage: two delays, six per token.
Here the same proxies hold back twice as long for it; what the hub itself would compute and copy is
left out, in its favour. Engine, protocol, streams and machine are the same.

The cores. One stage on one thread, one stage on two threads, and two stages on one thread each
take turns with the same requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from bench.conditions import Conditions, Model
from bench.delay_proxy import DelayProxy
from bench.figures import Figure, Report, at_least, ratio_figure
from bench.rounds import Meter, Round, Sample, as_json, interleaved, median, per_cpu_second, ratio
from bench.served import Served, served
from bench.streams import random_ids
from shoal.worker.v1 import pipeline_pb2
from shoal_common.rpc import address_of, locator

DELAY_S = 0.020
STAGES = 3
_WIRE_TOKENS = 24
_PROMPT_TOKENS = 17


async def measure(report: Report, conditions: Conditions) -> None:
    """Direct to hub at 20 ms, and two stages to one at 8 and 16 streams."""
    await _wire(report, conditions.demo(), conditions)
    with report.part("two cores"):
        await _cores(report, conditions.large(), conditions)


async def _wire(report: Report, model: Model, conditions: Conditions) -> None:
    async with served({"three": model.plan(workers=STAGES)}) as up, _wired(up["three"]) as wire:
        delays = {"direct": DELAY_S, "hub": 2 * DELAY_S, "no delay": 0.0}
        variants = {name: _one_stream(wire, delay_s) for name, delay_s in delays.items()}
        samples = await interleaved(variants, conditions.rounds)
    what = f"{model.label} {STAGES} stages, {1000 * DELAY_S:.0f} ms apart, 1 stream"
    quotient = ratio(samples["hub"], samples["direct"])
    report.add(ratio_figure(f"{what}, hub's time to ours", quotient, at_least(1.8)))
    for name, taken in samples.items():
        report.add(Figure(f"{what}, per token, {name}", 1000 * median(taken), "ms"))
    report.details["wire"] = as_json(samples)


@dataclass(frozen=True)
class Wire:
    """A fleet whose stages behind the head are reached through proxies, by stage locator."""

    fleet: Served
    proxies: Mapping[str, DelayProxy]

    def hold_back(self, delay_s: float) -> None:
        """From now on every hop takes `delay_s`."""
        for proxy in self.proxies.values():
            proxy.delay_s = delay_s

    def route(self, plan: pipeline_pb2.Pipeline) -> pipeline_pb2.Pipeline:
        """The plan with the proxies' locators; results come back through the last one."""
        changed = pipeline_pb2.Pipeline()
        changed.CopyFrom(plan)
        for stage in changed.stages[1:]:
            stage.locator = locator(self.proxies[stage.locator].address)
        return changed


@asynccontextmanager
async def _wired(fleet: Served) -> AsyncIterator[Wire]:
    async with fleet.driver.plan(fleet.fleet.model) as pipeline:
        locators = [stage.locator for stage in pipeline.stages[1:]]
    async with AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(DelayProxy(address_of(name), 0.0))
            for name in locators
        }
        yield Wire(fleet, proxies)


def _one_stream(wire: Wire, delay_s: float) -> Round:
    """Seconds per token of one stream, its prompt left out."""

    async def round_of() -> Sample:
        wire.hold_back(delay_s)
        ids = random_ids(_PROMPT_TOKENS, wire.fleet.vocab_size)
        with Meter(wire.fleet.processes) as meter:
            timed = await wire.fleet.timed(ids, _WIRE_TOKENS, wire.route)
        return Sample(timed.token_s, meter.wall_s, meter.cpu_s, {"tokens": _WIRE_TOKENS})

    return round_of


async def _cores(report: Report, model: Model, conditions: Conditions) -> None:
    plans = {
        "1 stage, 1 thread": model.plan(),
        "1 stage, 2 threads": model.plan(threads=2),
        "2 stages, 1 thread each": model.plan(workers=2),
    }
    one, wide, two = plans
    tokens = 16 if model.is_large else 64
    # The demo model stands in when it has to be quick; the targets are not about it.
    targets = {8: at_least(1.3), 16: at_least(1.6)} if model.is_large else {8: None, 16: None}
    async with served(plans) as up:
        for streams, target in targets.items():
            variants = {name: _many(fleet, streams, tokens) for name, fleet in up.items()}
            samples = await interleaved(variants, conditions.large_rounds)
            what = f"{model.label} {streams} streams"
            report.add(
                ratio_figure(f"{what}, {two} to {one}", ratio(samples[two], samples[one]), target),
                ratio_figure(
                    f"{what}, {two} to {wide}",
                    ratio(samples[two], samples[wide]),
                    at_least(0.85) if target and streams == 8 else None,
                ),
            )
            for name, taken in samples.items():
                report.add(
                    Figure(f"{what}, {name}", median(taken), "tok/s"),
                    Figure(f"{what}, {name}", per_cpu_second(taken), "tok/CPU-s"),
                )
            report.details[what] = as_json(samples)


def _many(fleet: Served, streams: int, tokens: int) -> Round:
    """Tokens per second of `streams` streams at once."""

    async def round_of() -> Sample:
        prompts = [random_ids(_PROMPT_TOKENS, fleet.vocab_size) for _ in range(streams)]
        with Meter(fleet.processes) as meter:
            await asyncio.gather(*(fleet.timed(ids, tokens) for ids in prompts))
        made = streams * tokens
        return Sample(made / meter.wall_s, meter.wall_s, meter.cpu_s, {"tokens": made})

    return round_of
