"""Prompts that arrive while others are answered: who waits for whom, and how long.

Three questions, each with the switch on and off: how long a gap a 1,500-token prompt tears into
four running answers; how soon eight prompts get their first token when they come at once; how much
is done in all when four short prompts come at once. The engines are asked directly, with exact
token counts.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping
from contextlib import aclosing
from itertools import pairwise

from bench.conditions import Conditions, Model
from bench.figures import Figure, Report, Target, at_least, at_most, ratio_figure
from bench.rounds import Meter, Round, Sample, as_json, interleaved, median, ratio
from bench.served import Served, served
from bench.streams import Timed, random_ids

LONG_TOKENS = 1500
SHORT_TOKENS = 17
_RUNNING = 4
_SETTLED_TOKENS = 24
_RUNNING_TOKENS_MAX = 2000
_BURST, _BURST_NEW_TOKENS = 8, 128
_FUSED, _FUSED_NEW_TOKENS = 4, 8
# The first gaps of a stream are those of its neighbours' prompts.
_GAPS_SKIPPED = 2

Fleets = Mapping[str, Served]


async def measure(report: Report, conditions: Conditions) -> None:
    """Gaps, times to first token, and aggregate of prompts that come together."""
    for model in conditions.models():
        with report.part(model.label):
            await _measure(report, model, conditions)


async def _measure(report: Report, model: Model, conditions: Conditions) -> None:
    plans = {
        "ours": model.plan(),
        "whole": model.plan(CHUNKED_PREFILL="false"),
        "single": model.plan(BATCHED_PREFILL="false"),
    }
    if not model.is_large:
        # A large model would answer 8 x 128 tokens one after the other for minutes.
        plans["serial"] = model.plan(CONTINUOUS_BATCHING="false")
    async with served(plans) as up:
        await _gaps(report, model, up, conditions)
        await _fused(report, model, up, conditions)
        if "serial" in up:
            await _first_tokens(report, model, up, conditions)


async def _gaps(report: Report, model: Model, up: Fleets, conditions: Conditions) -> None:
    """The longest gap while the prompt is read, to the median gap before it came."""
    samples = await interleaved(
        {"in chunks": _intrusion(up["ours"]), "whole": _intrusion(up["whole"])},
        1 if model.is_large else conditions.rounds,
        warm_ups=0 if model.is_large else 1,
    )
    for name, taken in samples.items():
        values = [sample.value for sample in taken]
        first_s = statistics.median(sample.details["long_first_s"] for sample in taken)
        report.add(
            Figure(
                f"{model.label} longest gap to median before, prompt {name}",
                statistics.median(values),
                target=at_most(3.0) if name == "in chunks" else None,
                least=min(values),
                most=max(values),
            ),
            Figure(f"{model.label} {LONG_TOKENS}-token prompt {name}, first token", first_s, "s"),
        )
    report.details[f"{model.label} gaps"] = as_json(samples)


def _intrusion(fleet: Served) -> Round:
    async def round_of() -> Sample:
        with Meter(fleet.processes) as meter:
            running = [Running(fleet) for _ in range(_RUNNING)]
            try:
                await asyncio.gather(*(answer.reached(_SETTLED_TOKENS) for answer in running))
                arrived = time.perf_counter()
                long = await fleet.timed(random_ids(LONG_TOKENS, fleet.vocab_size), 1)
                ended = time.perf_counter()
                # The gap that spans the end counts too.
                await asyncio.gather(*(answer.one_more() for answer in running))
            finally:
                await asyncio.gather(*(answer.stop() for answer in running))
        before, during = split_gaps([answer.times for answer in running], arrived, ended)
        longest_ms, before_ms = 1000 * max(during), 1000 * statistics.median(before)
        details = {
            "longest_ms": longest_ms,
            "median_before_ms": before_ms,
            "median_during_ms": 1000 * statistics.median(during),
            "long_first_s": long.first_s,
        }
        return Sample(longest_ms / before_ms, meter.wall_s, meter.cpu_s, details)

    return round_of


def split_gaps(
    streams: list[list[float]], arrived: float, ended: float
) -> tuple[list[float], list[float]]:
    """Gaps that were over before `arrived`, and those that touch [arrived, ended]."""
    before, during = [], []
    for times in streams:
        for start, stop in list(pairwise(times))[_GAPS_SKIPPED:]:
            if stop <= arrived:
                before.append(stop - start)
            elif start < ended:
                during.append(stop - start)
    return before, during


class Running:
    """An answer that goes on until it is stopped."""

    def __init__(self, fleet: Served) -> None:
        self._timed = Timed(time.perf_counter())
        self._has_ended = False
        self._grown = asyncio.Condition()
        self._task = asyncio.create_task(self._run(fleet))

    @property
    def times(self) -> list[float]:
        return self._timed.times

    async def reached(self, count: int) -> None:
        """Wait until `count` pieces have come. Raises RuntimeError, or what ended the stream."""
        async with self._grown:
            await self._grown.wait_for(lambda: len(self.times) >= count or self._has_ended)
        if len(self.times) < count:
            await self._task
            raise RuntimeError(f"the answer ended after {len(self.times)} tokens")

    async def one_more(self) -> None:
        await self.reached(len(self.times) + 1)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, fleet: Served) -> None:
        ids = random_ids(SHORT_TOKENS, fleet.vocab_size)
        try:
            async with aclosing(fleet.tokens(ids, _RUNNING_TOKENS_MAX)) as pieces:
                async for piece in pieces:
                    self._timed = piece
                    await self._tell()
        finally:
            self._has_ended = True
            await self._tell()

    async def _tell(self) -> None:
        async with self._grown:
            self._grown.notify_all()


async def _first_tokens(report: Report, model: Model, up: Fleets, conditions: Conditions) -> None:
    """Eight prompts at once: median time to first token, serial admission to ours."""
    variants = {name: _burst(up[name], _BURST, _BURST_NEW_TOKENS) for name in ("ours", "serial")}
    samples = await interleaved(variants, conditions.large_rounds)
    ours, serial = samples["ours"], samples["serial"]
    what = f"{model.label} first token of {_BURST} prompts at once"
    report.add(
        ratio_figure(f"{what}, serial to ours", ratio(serial, ours), at_least(15.0)),
        Figure(f"{what}, ours", 1000 * median(ours), "ms"),
        Figure(f"{what}, serial", 1000 * median(serial), "ms"),
    )
    report.details[f"{model.label} first tokens"] = as_json(samples)


async def _fused(report: Report, model: Model, up: Fleets, conditions: Conditions) -> None:
    """Four short prompts at once: all tokens per second, fused to one prompt per step."""
    # A round takes a large model three seconds, the demo model a few hundredths of one.
    rounds = conditions.large_rounds if model.is_large else 4 * conditions.rounds
    questions: list[tuple[int, Target | None]] = [(_FUSED_NEW_TOKENS, at_least(1.3))]
    if not model.is_large:
        questions.append((1, None))
    for new_tokens, target in questions:
        variants = {name: _aggregate(up[name], new_tokens) for name in ("ours", "single")}
        samples = await interleaved(variants, rounds)
        what = f"{model.label} {_FUSED} x ({SHORT_TOKENS} + {new_tokens} tokens)"
        quotient = ratio(samples["ours"], samples["single"])
        report.add(ratio_figure(f"{what}, fused to one prompt a step", quotient, target))
        report.details[what] = as_json(samples)


def _aggregate(fleet: Served, new_tokens: int) -> Round:
    """Tokens per second, those of prompts included."""
    burst = _burst(fleet, _FUSED, new_tokens)

    async def round_of() -> Sample:
        sample = await burst()
        rate = sample.details["tokens"] / sample.wall_s
        return Sample(rate, sample.wall_s, sample.cpu_s, sample.details)

    return round_of


def _burst(fleet: Served, count: int, new_tokens: int) -> Round:
    """`count` prompts at once; the value is the median time to first token in seconds."""

    async def round_of() -> Sample:
        prompts = [random_ids(SHORT_TOKENS, fleet.vocab_size) for _ in range(count)]
        with Meter(fleet.processes) as meter:
            streamed = await asyncio.gather(*(fleet.timed(ids, new_tokens) for ids in prompts))
        firsts = [timed.first_s for timed in streamed]
        details = {
            "tokens": count * (SHORT_TOKENS + new_tokens),
            "first_s_least": min(firsts),
            "first_s_mean": statistics.fmean(firsts),
            "first_s_most": max(firsts),
        }
        return Sample(statistics.median(firsts), meter.wall_s, meter.cpu_s, details)

    return round_of
