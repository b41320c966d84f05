"""Continuous batching end to end over HTTP, against one stream at a time.

Two fleets stand beside each other, alike but for the switch. The one without takes requests one
after the other, two of them queued, so that admission is part of what it costs.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from bench.conditions import Conditions, Model
from bench.figures import Figure, Report, at_least, ratio_figure
from bench.fleets import BenchFleet, fleets
from bench.rounds import Meter, Round, Sample, as_json, interleaved, median, per_cpu_second, ratio
from bench.spelling import Spelling
from bench.streams import HttpClient, decode_rate

_TARGETS = {1: at_least(0.97), 4: at_least(1.8), 8: at_least(3.0)}
_PROMPT_WORDS = 4
_SERIAL_REQUESTS = 2


async def measure(report: Report, conditions: Conditions) -> None:
    """Aggregate tokens per second at 1, 4 and 8 streams to those of serial admission."""
    for model in conditions.models():
        with report.part(model.label):
            await _measure(report, model, conditions)


async def _measure(report: Report, model: Model, conditions: Conditions) -> None:
    tokens = 24 if model.is_large else 96
    plans = {"batched": model.plan(), "serial": model.plan(CONTINUOUS_BATCHING="false")}
    with fleets(plans) as up:
        # One stream for as long as the serial side takes for its requests.
        sizes = {1: tokens * _SERIAL_REQUESTS, 4: tokens, 8: tokens}
        variants = {"serial": requests(up["serial"], _SERIAL_REQUESTS, tokens)}
        variants |= {f"batched {n}": requests(up["batched"], n, sizes[n]) for n in _TARGETS}
        rounds = conditions.large_rounds if model.is_large else conditions.rounds
        samples = await interleaved(variants, rounds)
    serial = samples["serial"]
    report.add(Figure(f"{model.label} serial", median(serial), "tok/s"))
    for streams, target in _TARGETS.items():
        batched = samples[f"batched {streams}"]
        name = f"{model.label} {streams} streams"
        report.add(
            ratio_figure(f"{name} to serial", ratio(batched, serial), target),
            ratio_figure(
                f"{name} to serial, prompts counted", ratio(whole(batched), whole(serial))
            ),
            Figure(name, median(batched), "tok/s"),
            Figure(name, per_cpu_second(batched), "tok/CPU-s"),
        )
    report.details[model.label] = as_json(samples)


def whole(samples: list[Sample]) -> list[Sample]:
    """Tokens per second from sending to the last one, in place of decoding alone."""
    return [replace(sample, value=sample.details["whole"]) for sample in samples]


def requests(fleet: BenchFleet, streams: int, tokens: int) -> Round:
    """A round of `streams` chats at once, `tokens` tokens each."""

    spelling = Spelling(fleet.plan.model)

    async def round_of() -> Sample:
        bodies = [
            spelling.chat(fleet.model, spelling.words(_PROMPT_WORDS), tokens)
            for _ in range(streams)
        ]
        async with HttpClient(fleet.url, fleet.key) as client:
            with Meter(fleet.processes) as meter:
                streamed = await asyncio.gather(
                    *(client.stream("/v1/chat/completions", body) for body in bodies)
                )
        counted = sum(timed.token_count for timed in streamed)
        assert counted == streams * tokens, f"{counted} tokens instead of {streams * tokens}"
        details = {"tokens": counted, "whole": counted / meter.wall_s}
        return Sample(decode_rate(streamed), meter.wall_s, meter.cpu_s, details)

    return round_of
