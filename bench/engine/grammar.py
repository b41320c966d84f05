"""What a grammar costs per decoded token, over HTTP at 8 streams.

A grammar may end an answer early; so the comparison is the time per token behind the first one,
and a schema that demands more items than there are tokens keeps answers at their full length. The
plain answers may not end by themselves either.
"""

from __future__ import annotations

import asyncio
import statistics
from typing import Any

from bench.conditions import Conditions, Model
from bench.figures import Figure, Report, Skipped, at_most, ratio_figure
from bench.fleets import BenchFleet, fleets
from bench.rounds import Meter, Round, Sample, as_json, interleaved, median, ratio
from bench.spelling import Spelling
from bench.streams import HttpClient, Timed

STREAMS = 8
_TOKENS = 48
_LONG_LIST = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2 * _TOKENS}
    },
    "required": ["items"],
    "additionalProperties": False,
}
_FORMATS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "json_object": {"type": "json_object"},
    "json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "list", "schema": _LONG_LIST, "strict": True},
    },
}


async def measure(report: Report, conditions: Conditions) -> None:
    """JSON mode and a schema to plain text: seconds per decoded token."""
    await _measure(report, conditions.large(), conditions)


async def _measure(report: Report, model: Model, conditions: Conditions) -> None:
    with fleets({"one": model.plan()}) as up:
        fleet = up["one"]
        await _check(fleet)
        variants = {name: _chats(fleet, wanted) for name, wanted in _FORMATS.items()}
        rounds = 2 if model.is_large else conditions.rounds
        samples = await interleaved(variants, rounds)
    plain = samples["plain"]
    for name in list(_FORMATS)[1:]:
        what = f"{model.label} time per token at {STREAMS} streams, {name} to plain"
        report.add(ratio_figure(what, ratio(samples[name], plain), at_most(1.05)))
        counts = [count for sample in samples[name] for count in sample.details["token_counts"]]
        report.notes.append(
            f"{model.label} {name}: {min(counts)} to {max(counts)} tokens, plain always {_TOKENS}"
        )
    report.add(Figure(f"{model.label} plain, per token and stream", 1000 * median(plain), "ms"))
    report.details[model.label] = as_json(samples)


async def _check(fleet: BenchFleet) -> None:
    """Raises Skipped when the gateway does not take a response format."""
    body = Spelling(fleet.plan.model).chat(fleet.model, "list", 8)
    async with HttpClient(fleet.url, fleet.key) as client:
        try:
            await client.stream(
                "/v1/chat/completions", {**body, "response_format": _FORMATS["json_object"]}
            )
        except RuntimeError as err:
            raise Skipped(f"no structured output: {err}") from err


def _chats(fleet: BenchFleet, wanted: dict[str, Any] | None) -> Round:
    """Eight chats at once; the value is the median of their seconds per token."""
    spelling = Spelling(fleet.plan.model)

    async def ask(client: HttpClient) -> Timed:
        text = f"Write a JSON object that lists numbers. {spelling.words(4)}"
        body = spelling.chat(fleet.model, text, _TOKENS)
        if wanted is not None:
            # A finished object may only be followed by the end: that has to be allowed.
            body = {**body, "response_format": wanted, "logit_bias": {}}
        return await client.stream("/v1/chat/completions", body)

    async def round_of() -> Sample:
        async with HttpClient(fleet.url, fleet.key) as client:
            with Meter(fleet.processes) as meter:
                streamed = await asyncio.gather(*(ask(client) for _ in range(STREAMS)))
        long_enough = [timed.token_s for timed in streamed if timed.token_count > 1]
        counts = [timed.token_count for timed in streamed]
        details = {"tokens": sum(counts), "token_counts": counts}
        return Sample(statistics.median(long_enough), meter.wall_s, meter.cpu_s, details)

    return round_of
