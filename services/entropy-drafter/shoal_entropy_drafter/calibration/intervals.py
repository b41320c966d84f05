"""How far figures would move with other prompts of the same kind: percentile bootstrap. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from shoal_entropy_drafter.calibration.cases import Case, Parameters
from shoal_entropy_drafter.calibration.replay import Track
from shoal_entropy_drafter.calibration.scores import Point, apgr, auroc, outcomes, point_of

ROUNDS = 400
SEED = 518
_LOW, _HIGH = 0.025, 0.975


@dataclass(frozen=True)
class Interval:
    """95 % of the resampled figures lie within."""

    low: float
    high: float

    def as_json(self) -> list[float]:
        return [round(self.low, 6), round(self.high, 6)]


def bootstrap(
    threshold: float,
    cases: Sequence[Case],
    tracks: Sequence[Track],
    parameters: Parameters,
    rounds: int = ROUNDS,
    seed: int = SEED,
) -> dict[str, Interval]:
    """Intervals of auroc, apgr, accuracy, accuracy_share (of the heavyweight's), cost and
    escalated_share under one threshold. Resamples prompts; figures that a resample does not have
    are left out of it."""
    rng = Random(seed)
    found: dict[str, list[float]] = {}
    scores = [track.score for track in tracks]
    settled = outcomes(threshold, cases, tracks, parameters)
    for _ in range(rounds):
        weights = [0] * len(cases)
        for index in rng.choices(range(len(cases)), k=len(cases)):
            weights[index] += 1
        figures = _figures(point_of(threshold, settled, weights), cases, tracks, scores, weights)
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    return {name: _interval(values) for name, values in found.items()}


def _figures(
    point: Point,
    cases: Sequence[Case],
    tracks: Sequence[Track],
    scores: Sequence[float],
    weights: Sequence[int],
) -> dict[str, float]:
    figures = {
        "accuracy": point.accuracy,
        "cost": point.cost,
        "escalated_share": point.escalated_share,
    }
    pairs = list(zip(cases, weights, strict=True))
    heavy_right = sum(count for case, count in pairs if case.is_heavy_right)
    draft_right = sum(count for case, count in pairs if case.is_draft_right)
    total = sum(weights)
    if heavy_right:
        figures["accuracy_share"] = point.accuracy * total / heavy_right
    if 0 < draft_right < total:
        figures["auroc"] = auroc(tracks, cases, weights)
    recovered = apgr(scores, cases, weights)
    if recovered is not None:
        figures["apgr"] = recovered
    return figures


def _interval(values: list[float]) -> Interval:
    ordered = sorted(values)
    last = len(ordered) - 1
    return Interval(ordered[round(_LOW * last)], ordered[round(_HIGH * last)])
