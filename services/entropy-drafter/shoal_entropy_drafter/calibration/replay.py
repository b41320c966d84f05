"""The real gate over recorded drafts, for all thresholds at once. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from shoal_entropy_drafter.calibration.cases import Answered
from shoal_entropy_drafter.entropy import Estimate, Statistic
from shoal_entropy_drafter.gate import Gate, GateRules, Verdict


@dataclass(frozen=True)
class Judging:
    """The gate's rules but for the threshold."""

    window_size: int
    early_exit_count: int
    candidate_count: int
    statistic: Statistic = "mean"
    estimate: Estimate = "renormalised"

    def rules(self, threshold: float) -> GateRules:
        """Soft verdicts are off: a calibration is about who answers, not about when."""
        return GateRules(
            threshold=threshold,
            window_size=self.window_size,
            early_exit_count=self.early_exit_count,
            candidate_count=self.candidate_count,
            statistic=self.statistic,
            estimate=self.estimate,
            is_speculative=False,
        )


@dataclass(frozen=True)
class Track:
    """One draft as the gate saw it: the largest statistic so far after each token, and at the end.

    Never falls. A gate gives up at the first entry above its threshold.
    """

    highest: tuple[float, ...]

    @property
    def score(self) -> float:
        """The draft escalates under exactly those thresholds that are lower."""
        return self.highest[-1]

    def tokens_until_escalation(self, threshold: float) -> int | None:
        """Tokens drafted by then; None where the draft stands."""
        if self.score <= threshold:
            return None
        return min(bisect_right(self.highest, threshold) + 1, len(self.highest) - 1)


def track_of(draft: Answered, judging: Judging) -> Track:
    """Feed a whole draft to a gate that never gives up."""
    gate = Gate(judging.rules(inf))
    highest = []
    for entropy in draft.entropies:
        gate.feed(entropy)
        highest.append(gate.highest)
    judgement = gate.finish(draft.completion_tokens)
    is_lost = judgement.verdict is Verdict.ESCALATE
    return Track((*highest, inf if is_lost else gate.highest))


def thresholds_between(tracks: Sequence[Track], count_max: int) -> list[float]:
    """Thresholds that differ in what they escalate, ascending: halfway between scores.

    The first escalates every draft that can be, the last none of those; thinned evenly to
    `count_max` where there are more.
    """
    scores = sorted({track.score for track in tracks if 0.0 < track.score < inf})
    if not scores:
        return []
    between = [(low + high) / 2 for low, high in pairwise(scores)]
    found = [scores[0] / 2, *between, scores[-1] * 1.01]
    if len(found) <= count_max:
        return found
    step = (len(found) - 1) / (count_max - 1)
    return [found[round(index * step)] for index in range(count_max)]
