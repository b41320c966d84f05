"""Measures the cache's safety with the embedding model that serves, and writes what it found."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.cache_safety import pairs as made
from bench.cache_safety.histogram import draw
from bench.cache_safety.pairs import HALVES, Pair
from bench.cache_safety.verdicts import (
    Judged,
    Rule,
    judge,
    kinds,
    reasons,
    safe_threshold,
    share,
)
from bench.conditions import Conditions
from bench.figures import Figure, Report, Skipped, at_most, table, write
from bench.fleets import ROOT
from bench.running import machine, observed
from shoal_common.errors import ShoalError
from shoal_entropy_drafter.embedder.opening import open_embedder
from shoal_entropy_drafter.guard import difference
from shoal_entropy_drafter.settings import Settings

THRESHOLDS = (0.95, 0.90, 0.85, 0.80)
FALSE_PERCENT_MAX = 0.2
# With --quick: enough to see that all works.
QUICK_COUNT = 160
_BATCH = 64

RULES = (
    *(Rule(threshold, False) for threshold in THRESHOLDS),
    *(Rule(threshold, True) for threshold in THRESHOLDS),
    Rule(-1.0, True),
)


class Measurement:
    """One run; keeps what was judged for the picture and the tables."""

    def __init__(self) -> None:
        self.judged: list[Judged] = []
        self.threshold = 0.0

    async def measure(self, report: Report, conditions: Conditions) -> None:
        """Embed both texts of every pair, ask the guard, and count under every rule."""
        settings = Settings()
        self.threshold = settings.cache_similarity_threshold
        count = QUICK_COUNT if conditions.is_quick else made.COUNT
        pairs = [*made.paraphrases(count), *made.near_misses(count)]
        cosines = await _cosines(pairs, settings)
        began = time.thread_time()
        self.judged = judge(pairs, cosines, difference)
        guard_us = 1e6 * (time.thread_time() - began) / len(pairs)
        self._report(report, settings.embedding_model, guard_us)

    def _report(self, report: Report, model: str, guard_us: float) -> None:
        for rule in (Rule(self.threshold, False), Rule(self.threshold, True), Rule(-1.0, True)):
            false = share(self.judged, rule, False, "test")
            useful = share(self.judged, rule, True, "test")
            target = at_most(FALSE_PERCENT_MAX) if rule.has_guard else None
            report.add(
                Figure(f"false hits, {rule.label}", false.percent, "%", target),
                Figure(f"paraphrases hit, {rule.label}", useful.percent, "%"),
            )
        safe = safe_threshold(self.judged, FALSE_PERCENT_MAX, "test")
        alone = share(self.judged, Rule(safe, False), True, "test")
        report.add(
            Figure("cosine that would be as safe alone", safe, ""),
            Figure("paraphrases hit at that cosine", alone.percent, "%"),
            Figure("guard, CPU time per pair", guard_us, "µs"),
        )
        report.notes.append(
            f"figures are of the test half, which nobody looked at while the guard was tuned; "
            f"vectors by {model}; seed {made.SEED}"
        )
        report.details["rules"] = [_rule_json(self.judged, rule) for rule in RULES]
        report.details["guard_reasons"] = reasons(self.judged)
        report.details["false_hits"] = [
            [one.pair.half, one.pair.kind, one.pair.one, one.pair.other]
            for one in self.judged
            if not one.pair.is_same and not one.difference
        ]


async def _cosines(pairs: Sequence[Pair], settings: Settings) -> list[float]:
    try:
        embedder = await open_embedder(settings)
    except ShoalError as err:
        raise Skipped(str(err)) from err
    try:
        found: list[float] = []
        for start in range(0, len(pairs), _BATCH):
            batch = pairs[start : start + _BATCH]
            ones = await embedder.embed([pair.one for pair in batch])
            others = await embedder.embed([pair.other for pair in batch])
            found += np.einsum("ij,ij->i", ones.vectors, others.vectors).tolist()
        return found
    finally:
        await embedder.close()


def _rule_json(judged: Sequence[Judged], rule: Rule) -> dict[str, object]:
    halves: dict[str, object] = {
        half: {
            name: {"hits": counted.hit_count, "of": counted.count}
            for name, counted in (
                ("near_misses", share(judged, rule, False, half)),
                ("paraphrases", share(judged, rule, True, half)),
            )
        }
        for half in HALVES
    }
    by_kind = {
        name: {
            kind: share(judged, rule, is_same, "test", kind).percent
            for kind in kinds(judged, is_same)
        }
        for name, is_same in (("near_misses", False), ("paraphrases", True))
    }
    return {"rule": rule.label, **halves, "test_percent_by_kind": by_kind}


def rules_table(judged: Sequence[Judged]) -> str:
    """Every rule, on the half that was held out and on all."""
    rows = [
        "| rule | false hits, test | at most (95 %) | paraphrases hit, test "
        "| false hits, all | paraphrases hit, all |",
        "|---|---|---|---|---|---|",
    ]
    for rule in RULES:
        false, useful = (share(judged, rule, same, "test") for same in (False, True))
        all_false, all_useful = (share(judged, rule, same) for same in (False, True))
        rows.append(
            f"| {rule.label} | {false.percent:.1f} % ({false.hit_count} of {false.count}) "
            f"| {false.upper_percent:.1f} % | {useful.percent:.1f} % "
            f"| {all_false.percent:.1f} % ({all_false.hit_count} of {all_false.count}) "
            f"| {all_useful.percent:.1f} % |"
        )
    return "\n".join(rows)


def kinds_table(judged: Sequence[Judged], is_same: bool, threshold: float) -> str:
    """Percent shared by kind on the test half; columns are rules."""
    rules = [
        *(Rule(value, has_guard) for value in (threshold, 0.85) for has_guard in (False, True)),
        Rule(-1.0, True),
    ]
    title = "paraphrases" if is_same else "near misses"
    rows = [
        f"| {title} | " + " | ".join(rule.label for rule in rules) + " |",
        "|---" * (len(rules) + 1) + "|",
    ]
    for kind in kinds(judged, is_same):
        shares = (share(judged, rule, is_same, "test", kind).percent for rule in rules)
        cells = " | ".join(f"{percent:.0f} %" for percent in shares)
        rows.append(f"| {kind.replace('_', ' ')} | {cells} |")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write cache-safety.json, .md and .png."""
    parser = argparse.ArgumentParser(
        prog="bench.cache_safety", description="Wrong answers of the semantic cache."
    )
    parser.add_argument("--quick", action="store_true", help="a sixth of the pairs")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    chosen = parser.parse_args(argv)
    conditions = Conditions(chosen.out, chosen.quick)
    stem = chosen.out / ("cache-safety-quick" if chosen.quick else "cache-safety")
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    measurement = Measurement()
    report = asyncio.run(observed("cache_safety", measurement.measure, conditions))
    write([report], {**machine(), "started": started, "quick": chosen.quick}, stem)
    print(table([report]))
    if not measurement.judged:
        raise SystemExit(report.failed or report.skipped)
    text = "\n\n".join(_document(measurement, report))
    stem.with_suffix(".md").write_text(text + "\n")
    draw(measurement.judged, measurement.threshold, stem.with_suffix(".png"))
    print(f"written to {stem}.json, .md and .png")


def _document(measurement: Measurement, report: Report) -> list[str]:
    judged, threshold = measurement.judged, measurement.threshold
    about = machine()
    return [
        table([report]),
        rules_table(judged),
        kinds_table(judged, True, threshold),
        kinds_table(judged, False, threshold),
        "`False hits` are pairs that ask something else and would have shared an answer. The bound "
        "counts pairs as independent; they come from 64 templates per half, so it is kinder than "
        "it looks. One author wrote pairs and guard, the pairs first. Vectors and cosines do not "
        "depend on the machine; the guard's time does: "
        f"{about['processor']}, one process, Python {about['python']}.",
    ]
