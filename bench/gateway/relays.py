"""Contenders in turns before one mock provider: CPU per request and event, added time, memory.

CPU is that of a contender's own processes, all of them; the load's and the provider's do not
count. An event's cost is the difference between long and short streams, so that opening a stream
is not in it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.conditions import Conditions
from bench.figures import Figure, Report, Skipped, Target, at_least, at_most, ratio_figure
from bench.gateway import contenders as who
from bench.gateway.contenders import Contender, Place
from bench.gateway.cpu import cpu_time_s, memory_bytes
from bench.gateway.load import BadAnswer, closed_loop, percentile
from bench.gateway.programs import helper
from bench.rounds import Round, Sample, as_json, interleaved, ratio

_ANSWER_TIMEOUT_S = 60.0
_RETRY_S = 0.25
_MILLI, _MICRO = 1e3, 1e6


@dataclass(frozen=True)
class Amounts:
    """How much each round asks for. posts: by requests at once."""

    rounds: int
    posts: Mapping[int, int]
    streams: int
    pieces: int
    pace_s: float


FULL = Amounts(5, {1: 200, 32: 960}, 16, 64, 0.05)
QUICK = Amounts(1, {1: 10, 32: 32}, 4, 8, 0.01)
Samples = dict[str, list[Sample]]


async def measure(report: Report, conditions: Conditions) -> None:
    """Every contender that comes up."""
    await compare(report, tuple(who.START), QUICK if conditions.is_quick else FULL, conditions)


async def compare(
    report: Report, names: tuple[str, ...], amounts: Amounts, conditions: Conditions
) -> None:
    """The contenders of these names; `direct` is among them."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-"))
        pace = ("--pace-s", str(amounts.pace_s))
        provider_url = stack.enter_context(helper("bench.gateway.upstream", *pace))
        fleet = json.loads(stack.enter_context(helper("bench.gateway.fleet", *pace)))
        environments = conditions.folder / "gateways"
        place = Place(stack, Path(folder), environments, provider_url, fleet)
        started: dict[str, Contender] = {}
        for name in names:
            with report.part(name):
                contender = await who.START[name](place)
                await _until_it_answers(contender)
                started[name] = contender
        for at_once, count in amounts.posts.items():
            _add_posts(report, at_once, await _posts(started, at_once, count, amounts.rounds))
        del started[who.DIRECT]
        _add_events(report, await _events(started, amounts))
        for name, contender in started.items():
            size = memory_bytes(contender.processes())
            report.add(Figure(f"{name}: memory after it", size / 2**20, "MiB"))


async def _until_it_answers(contender: Contender) -> None:
    """A port may be open before what is behind it is ready. Raises Skipped."""
    give_up_at = time.monotonic() + _ANSWER_TIMEOUT_S
    while True:
        try:
            await closed_loop(contender.url, contender.whole(1), 1, 1)
            return
        except (BadAnswer, OSError) as err:
            if time.monotonic() > give_up_at:
                raise Skipped(f"it does not answer: {err}") from err
            await asyncio.sleep(_RETRY_S)


async def _posts(
    started: Mapping[str, Contender], at_once: int, count: int, rounds: int
) -> Samples:
    """CPU µs per request; p50 and p99 in ms."""

    def posting(contender: Contender) -> Round:
        async def round_of() -> Sample:
            processes = contender.processes()
            began_s = cpu_time_s(processes)
            replies = await closed_loop(contender.url, contender.whole(1), count, at_once)
            cpu_s = cpu_time_s(processes) - began_s
            times = {f"p{p}_ms": percentile(replies, p / 100) * _MILLI for p in (50, 99)}
            return Sample(cpu_s / count * _MICRO, cpu_s=cpu_s, details=times)

        return round_of

    return await interleaved(_each(started, posting), rounds)


async def _events(started: Mapping[str, Contender], amounts: Amounts) -> Samples:
    """CPU µs per event."""
    at_once, pieces = amounts.streams, amounts.pieces

    async def cpu_of(contender: Contender, piece_count: int) -> float:
        processes = contender.processes()
        began_s = cpu_time_s(processes)
        request = contender.stream(piece_count)
        replies = await closed_loop(contender.url, request, at_once, at_once, is_stream=True)
        least = min(reply.event_count for reply in replies)
        if least < piece_count:
            raise BadAnswer(f"a stream of {least} events for {piece_count} pieces")
        return cpu_time_s(processes) - began_s

    def streaming(contender: Contender) -> Round:
        async def round_of() -> Sample:
            short_s = await cpu_of(contender, 1)
            long_s = await cpu_of(contender, pieces)
            per_event_s = (long_s - short_s) / (at_once * (pieces - 1))
            details = {"short_s": short_s, "long_s": long_s}
            return Sample(per_event_s * _MICRO, cpu_s=short_s + long_s, details=details)

        return round_of

    return await interleaved(_each(started, streaming), amounts.rounds)


def _each(started: Mapping[str, Contender], make: Callable[[Contender], Round]) -> dict[str, Round]:
    return {name: make(contender) for name, contender in started.items()}


def _add_posts(report: Report, at_once: int, samples: Samples) -> None:
    where = f"{at_once} at once"
    direct = samples[who.DIRECT]
    others = {name: taken for name, taken in samples.items() if name != who.DIRECT}
    for name, taken in others.items():
        target = at_most(500.0) if name == who.OURS else None
        report.add(_spread(f"{name}: CPU per POST, {where}", taken, "µs", target))
    if who.OURS in samples:
        _add_ratios(report, f"CPU per POST, {where}", others, has_targets=True)
    for key in ("p50_ms", "p99_ms"):
        for name, taken in others.items():
            added = [s.details[key] - d.details[key] for s, d in zip(taken, direct, strict=True)]
            label = f"{name}: added {key.removesuffix('_ms')}, {where}"
            report.add(Figure(label, statistics.median(added), "ms", None, min(added), max(added)))
    report.details[f"posts, {where}"] = as_json(samples)


def _add_events(report: Report, samples: Samples) -> None:
    for name, taken in samples.items():
        target = at_most(100.0) if name == who.OURS else None
        report.add(_spread(f"{name}: CPU per event of a paced stream", taken, "µs", target))
    if who.OURS in samples:
        _add_ratios(report, "CPU per event", samples, has_targets=False)
    report.details["events"] = as_json(samples)


def _add_ratios(report: Report, what: str, samples: Samples, *, has_targets: bool) -> None:
    ours = samples[who.OURS]
    targets: dict[str, Target] = {who.LITELLM: at_least(30.0), who.FASTAPI: at_least(7.0)}
    for name in (who.LITELLM, who.FASTAPI):
        if name in samples:
            target = targets[name] if has_targets else None
            report.add(ratio_figure(f"{name} to ours: {what}", ratio(samples[name], ours), target))
    if who.VLLM_ROUTER in samples:
        target = at_most(4.0) if has_targets else None
        label = f"ours to {who.VLLM_ROUTER}: {what}"
        report.add(ratio_figure(label, ratio(ours, samples[who.VLLM_ROUTER]), target))


def _spread(name: str, samples: list[Sample], unit: str, target: Target | None) -> Figure:
    values = [sample.value for sample in samples]
    return Figure(name, statistics.median(values), unit, target, min(values), max(values))
