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
from bench.figures import Figure, Report, Target, at_least, ratio_figure
from bench.rounds import Meter, Round, Sample, as_json, interleaved, median, per_cpu_second, ratio
from bench.served import Served, served
from bench.streams import decode_rate, random_ids
from shoal.worker.v1 import pipeline_pb2
from shoal_common.rpc import address_of, locator

DELAY_S = 0.020
STAGES = 3
_PROMPT_TOKENS, _WIRE_TOKENS = 17, 24
# Short prompts: it is about decoding, and a large model reads 45 tokens a second.
_SHORT_TOKENS, _TOKENS = 4, 16
_CORES_ROUNDS = 3
ONE, WIDE, TWO = "1 stage, 1 thread", "1 stage, 2 threads", "2 stages, 1 thread each"


async def measure(report: Report, conditions: Conditions) -> None:
    """Direct to hub at 20 ms, and two stages to one at 8 and 16 streams."""
    await _wire(report, conditions.demo(), conditions)
    with report.part("two cores"):
        await _cores(report, conditions.large())


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


async def _cores(report: Report, model: Model) -> None:
    plans = {
        ONE: model.plan(),
        WIDE: model.plan(threads=2),
        TWO: model.plan(workers=2),
    }
    # The demo model stands in when it has to be quick; the targets are not about it.
    goals = (at_least(1.3), at_least(1.6), at_least(0.85)) if model.is_large else (None,) * 3
    async with served(plans) as up:
        # Two threads on a machine with other work may stall for seconds: they come last.
        for streams, other, target in zip((8, 16, 8), (ONE, ONE, WIDE), goals, strict=True):
            compared = {other: up[other], TWO: up[TWO]}
            await _against(report, f"{model.label} {streams} streams", compared, streams, target)


async def _against(
    report: Report, what: str, compared: Mapping[str, Served], streams: int, target: Target | None
) -> None:
    """Two stages to another fleet, both asked for as many streams."""
    other, two = compared
    variants = {name: _many(fleet, streams) for name, fleet in compared.items()}
    samples = await interleaved(variants, _CORES_ROUNDS, warm_ups=int(streams == 8))
    quotient = ratio(samples[two], samples[other])
    report.add(ratio_figure(f"{what}, {two} to {other}", quotient, target))
    for name, taken in samples.items():
        report.add(
            Figure(f"{what}, {name}", median(taken), "tok/s"),
            Figure(f"{what}, {name}", per_cpu_second(taken), "tok/CPU-s"),
        )
    report.details[f"{what}, {two} to {other}"] = as_json(samples)


def _many(fleet: Served, streams: int) -> Round:
    """Decoded tokens per second of `streams` streams at once, their prompts left out."""

    async def round_of() -> Sample:
        prompts = [random_ids(_SHORT_TOKENS, fleet.vocab_size) for _ in range(streams)]
        with Meter(fleet.processes) as meter:
            streamed = await asyncio.gather(*(fleet.timed(ids, _TOKENS) for ids in prompts))
        made = streams * _TOKENS
        details = {"tokens": made, "whole": made / meter.wall_s}
        return Sample(decode_rate(streamed), meter.wall_s, meter.cpu_s, details)

    return round_of
