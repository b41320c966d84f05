"""What becomes of pairs under a rule: shared answers, counted by kind and half. Pure.

Owns the counting. Does not know where cosines come from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.cache_safety.pairs import Half, Pair


@dataclass(frozen=True)
class Judged:
    """A pair, how near its vectors are, and what the guard says of it ("": nothing against)."""

    pair: Pair
    cosine: float
    difference: str


@dataclass(frozen=True)
class Rule:
    """When an answer is shared. threshold: least cosine, -1 for any."""

    threshold: float
    has_guard: bool

    @property
    def label(self) -> str:
        if self.threshold < -0.5:
            return "guard alone"
        return f"cosine {self.threshold:.2f}" + (" and guard" if self.has_guard else " alone")

    def shares(self, judged: Judged) -> bool:
        is_near = judged.cosine >= self.threshold
        return is_near and not (self.has_guard and judged.difference)


@dataclass(frozen=True)
class Share:
    """How many of how many."""

    hit_count: int
    count: int

    @property
    def percent(self) -> float:
        return 100 * self.hit_count / self.count if self.count else math.nan

    @property
    def upper_percent(self) -> float:
        """95 % bound from above (Wilson, one-sided), were the pairs independent."""
        if not self.count:
            return math.nan
        z, n, share = 1.645, self.count, self.hit_count / self.count
        middle = share + z * z / (2 * n)
        spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        return 100 * (middle + spread) / (1 + z * z / n)


def share(
    judged: Sequence[Judged],
    rule: Rule,
    is_same: bool,
    half: Half | None = None,
    kind: str | None = None,
) -> Share:
    """Shared answers among pairs that ask the same, or among those that do not."""
    chosen = [
        one
        for one in judged
        if one.pair.is_same == is_same
        and half in (None, one.pair.half)
        and kind in (None, one.pair.kind)
    ]
    return Share(sum(map(rule.shares, chosen)), len(chosen))


def kinds(judged: Sequence[Judged], is_same: bool) -> list[str]:
    return list(dict.fromkeys(one.pair.kind for one in judged if one.pair.is_same == is_same))


def reasons(judged: Sequence[Judged]) -> dict[str, int]:
    """How often the guard gave each reason for near misses."""
    counts = Counter(one.difference for one in judged if not one.pair.is_same)
    return dict(sorted(counts.items()))


def safe_threshold(judged: Sequence[Judged], false_percent: float, half: Half) -> float:
    """Least cosine at which cosine alone shares no more wrong answers than that."""
    wrong = sorted(
        (one.cosine for one in judged if not one.pair.is_same and one.pair.half == half),
        reverse=True,
    )
    allowed = math.floor(len(wrong) * false_percent / 100)
    return math.nextafter(wrong[allowed], math.inf)


def judge(
    pairs: Sequence[Pair], cosines: Sequence[float], difference: Callable[[str, str], str]
) -> list[Judged]:
    return [
        Judged(pair, cosine, difference(pair.one, pair.other))
        for pair, cosine in zip(pairs, cosines, strict=True)
    ]
