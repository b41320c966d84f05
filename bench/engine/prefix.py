"""Prompts that the KV cache has seen: time to first token the second time, to the first.

The cold and the warm request of a pair follow each other on one fleet; a fleet with the cache off
stands beside it as a control, for the small model. A decode step is measured behind the same
prompt, because attention over 2,048 positions is part of it.
"""

from __future__ import annotations

import statistics

from bench.conditions import Conditions, Model
from bench.figures import Figure, Report, at_least, at_most, ratio_figure
from bench.rounds import Meter, Ratio, Round, Sample, as_json, interleaved
from bench.served import Served, served
from bench.streams import random_ids

FULL_TOKENS = 2048
BASE_TOKENS, ADDED_TOKENS = 513, 5
_STEPS = 16


async def measure(report: Report, conditions: Conditions) -> None:
    """A 2,048-token prompt again, and 513 known tokens with 5 new ones."""
    await _measure(report, conditions.demo(), conditions)
    if not conditions.is_quick:
        with report.part("the large model"):
            await _measure(report, conditions.large(), conditions)


async def _measure(report: Report, model: Model, conditions: Conditions) -> None:
    plans = {"cached": model.plan(PREFIX_CACHE="true")}
    if not model.is_large:
        plans["plain"] = model.plan(PREFIX_CACHE="false")
    rounds = 2 if model.is_large else conditions.rounds
    async with served(plans) as up:
        for fleet in up.values():
            await fleet.timed(random_ids(8, fleet.vocab_size), 4)
        for name, variant in (("again", _again), ("extended", _extended)):
            samples = await interleaved(
                {kind: variant(fleet) for kind, fleet in up.items()},
                rounds,
                warm_ups=0 if model.is_large else 1,
            )
            _add(report, model.label, name, samples)
            report.details[f"{model.label} {name}"] = as_json(samples)


def _add(report: Report, label: str, name: str, samples: dict[str, list[Sample]]) -> None:
    if name == "again":
        what, target = f"{label} {FULL_TOKENS}-token prompt again", at_least(40.0)
    else:
        what, target = f"{label} {BASE_TOKENS} known + {ADDED_TOKENS} new tokens", None
    cached = samples["cached"]
    report.add(
        ratio_figure(f"{what}, cold to warm first token", _spread(cached), target),
        Figure(f"{what}, warm first token", _middle(cached, "warm_ms"), "ms"),
        Figure(f"{what}, cold first token", _middle(cached, "cold_ms"), "ms"),
    )
    if "plain" in samples:
        report.add(ratio_figure(f"{what}, the same without the cache", _spread(samples["plain"])))
    if name == "again":
        report.add(
            Figure(
                f"{what}, warm first token beyond two decode steps",
                _middle(cached, "beyond_two_steps_ms"),
                "ms",
                at_most(5.0),
            )
        )


def _middle(samples: list[Sample], detail: str) -> float:
    return statistics.median(float(sample.details[detail]) for sample in samples)


def _spread(samples: list[Sample]) -> Ratio:
    values = [sample.value for sample in samples]
    return Ratio(statistics.median(values), min(values), max(values))


def _again(fleet: Served) -> Round:
    """The same prompt twice; the second time some steps are decoded behind it."""

    async def round_of() -> Sample:
        ids = random_ids(FULL_TOKENS, fleet.vocab_size)
        with Meter(fleet.processes) as meter:
            cold = await fleet.timed(ids, 1)
            warm = await fleet.timed(ids, _STEPS)
        step_ms = 1000 * statistics.median(warm.gaps_s)
        details = {
            "cold_ms": 1000 * cold.first_s,
            "warm_ms": 1000 * warm.first_s,
            "decode_step_ms": step_ms,
            "beyond_two_steps_ms": 1000 * warm.first_s - 2 * step_ms,
            "cached_token_count": warm.cached_count,
        }
        return Sample(cold.first_s / warm.first_s, meter.wall_s, meter.cpu_s, details)

    return round_of


def _extended(fleet: Served) -> Round:
    """A known prompt with a few tokens behind it, to an unknown one of the same length."""

    async def round_of() -> Sample:
        known = random_ids(BASE_TOKENS, fleet.vocab_size)
        added = random_ids(ADDED_TOKENS, fleet.vocab_size)
        with Meter(fleet.processes) as meter:
            cold = await fleet.timed(random_ids(BASE_TOKENS + ADDED_TOKENS, fleet.vocab_size), 1)
            await fleet.timed(known, 1)
            warm = await fleet.timed(known + added, 1)
        details = {
            "cold_ms": 1000 * cold.first_s,
            "warm_ms": 1000 * warm.first_s,
            "cached_token_count": warm.cached_count,
        }
        return Sample(cold.first_s / warm.first_s, meter.wall_s, meter.cpu_s, details)

    return round_of
