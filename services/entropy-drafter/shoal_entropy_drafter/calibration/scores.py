"""Measures of a gate over cases: AUROC, accuracy and cost by threshold, APGR, knee. Pure.

Cost is what is spent relative to the heavyweight answering everything: generated tokens times
parameters, drafts counted up to where the gate gave up and the heavyweight's tokens added where it
took over. A cascade that escalates all therefore costs more than 1. Wall cost is the same in
seconds, one model after the other; a draft that is given up counts in proportion to its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from shoal_entropy_drafter.calibration.cases import Case, Parameters
from shoal_entropy_drafter.calibration.replay import Track


@dataclass(frozen=True)
class Point:
    """What the cascade does under one threshold; shares, not percent.

    precision: escalated drafts that were wrong, of those escalated (None where none was). recall:
    the same, of the wrong ones (None where none was).
    """

    threshold: float
    accuracy: float
    escalated_share: float
    cost: float
    wall_cost: float
    precision: float | None
    recall: float | None

    def as_json(self) -> dict[str, Any]:
        return {k: v if v is None else round(v, 6) for k, v in asdict(self).items()}


def auroc(tracks: Sequence[Track], cases: Sequence[Case], weights: Sequence[int] = ()) -> float:
    """Chance that a wrong draft scores above a right one; ties count half.

    weights: how often each case counts, for resampling. Wants wrong and right drafts.
    """
    counts = weights or [1] * len(cases)
    by_score: dict[float, tuple[int, int]] = {}
    for track, case, count in zip(tracks, cases, counts, strict=True):
        wrong, right = by_score.get(track.score, (0, 0))
        if case.is_draft_right:
            by_score[track.score] = wrong, right + count
        else:
            by_score[track.score] = wrong + count, right
    wins = below = wrong_total = 0.0
    for score in sorted(by_score):
        wrong, right = by_score[score]
        wins += wrong * (below + right / 2)
        below += right
        wrong_total += wrong
    assert wrong_total, "AUROC needs wrong drafts"
    assert below, "AUROC needs right drafts"
    return wins / (wrong_total * below)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one case comes to under a threshold. tokens: in tokens of the heavyweight."""

    is_escalated: bool
    is_right: bool
    is_draft_wrong: bool
    tokens: float
    wall_s: float
    heavy_tokens: int
    heavy_wall_s: float


def outcomes(
    threshold: float, cases: Sequence[Case], tracks: Sequence[Track], parameters: Parameters
) -> list[Outcome]:
    """Replay a cascade under one threshold."""
    return [
        _outcome(case, track.tokens_until_escalation(threshold), parameters.ratio)
        for case, track in zip(cases, tracks, strict=True)
    ]


def _outcome(case: Case, stop: int | None, ratio: float) -> Outcome:
    draft, heavy = case.draft, case.heavy
    if stop is None:
        tokens, wall_s = ratio * draft.completion_tokens, draft.wall_s
    else:
        share = min(1.0, stop / max(1, draft.completion_tokens))
        tokens = ratio * stop + heavy.completion_tokens
        wall_s = draft.wall_s * share + heavy.wall_s
    return Outcome(
        stop is not None,
        case.is_draft_right if stop is None else case.is_heavy_right,
        not case.is_draft_right,
        tokens,
        wall_s,
        heavy.completion_tokens,
        heavy.wall_s,
    )


def point_of(threshold: float, found: Sequence[Outcome], weights: Sequence[int] = ()) -> Point:
    """Sum outcomes up. weights: how often each counts, for resampling."""
    counts = weights or [1] * len(found)
    right = escalated = caught = wrong = 0
    tokens = wall_s = heavy_tokens = heavy_wall_s = 0.0
    for outcome, count in zip(found, counts, strict=True):
        tokens += count * outcome.tokens
        wall_s += count * outcome.wall_s
        heavy_tokens += count * outcome.heavy_tokens
        heavy_wall_s += count * outcome.heavy_wall_s
        right += count * outcome.is_right
        wrong += count * outcome.is_draft_wrong
        if outcome.is_escalated:
            escalated += count
            caught += count * outcome.is_draft_wrong
    total = sum(counts)
    return Point(
        threshold,
        accuracy=right / total,
        escalated_share=escalated / total,
        cost=tokens / max(1.0, heavy_tokens),
        wall_cost=wall_s / max(1e-9, heavy_wall_s),
        precision=caught / escalated if escalated else None,
        recall=caught / wrong if wrong else None,
    )


def point_at(
    threshold: float, cases: Sequence[Case], tracks: Sequence[Track], parameters: Parameters
) -> Point:
    """What the cascade does under one threshold."""
    return point_of(threshold, outcomes(threshold, cases, tracks, parameters))


def cost_at(share: float, points: Sequence[Point], heavy_accuracy: float) -> Point | None:
    """The cheapest point with at least this share of the heavyweight's accuracy; None if none."""
    reached = [point for point in points if point.accuracy >= share * heavy_accuracy - 1e-12]
    return min(reached, key=lambda point: (point.cost, point.threshold), default=None)


def knee(points: Sequence[Point]) -> Point:
    """Where paying more begins to pay less: the point farthest above the chord.

    Both axes are scaled to [0, 1] over all points, from the drafter alone to everything escalated,
    and the chord runs from corner to corner: Kneedle (Satopaa et al., 2011) for one knee, without
    smoothing. Of points as far, the cheaper.
    """
    assert points
    cost_min = min(point.cost for point in points)
    accuracy_min = min(point.accuracy for point in points)
    width = max(point.cost for point in points) - cost_min or 1.0
    height = max(point.accuracy for point in points) - accuracy_min or 1.0

    def above(point: Point) -> float:
        gain = (point.accuracy - accuracy_min) / height
        return gain - (point.cost - cost_min) / width

    return max(points, key=lambda point: (round(above(point), 9), -point.cost))


def apgr(
    scores: Sequence[float], cases: Sequence[Case], weights: Sequence[int] = ()
) -> float | None:
    """Average performance gap recovered (RouteLLM, Ong et al., 2024): the mean over all shares c of
    requests that the heavyweight answers, from 0 to 1, of

        (accuracy with the share c escalated - drafter's) / (heavyweight's - drafter's)

    those with the highest scores first, ties all at once, integrated by trapezoids. A random
    choice has 0.5. None where the heavyweight is no better than the drafter.
    """
    counts = weights or [1] * len(cases)
    gain_of: dict[float, tuple[int, int]] = {}
    for score, case, count in zip(scores, cases, counts, strict=True):
        gained, total = gain_of.get(score, (0, 0))
        gain = count * (int(case.is_heavy_right) - int(case.is_draft_right))
        gain_of[score] = gained + gain, total + count
    gap = sum(gained for gained, _ in gain_of.values())
    if gap <= 0:
        return None
    curve = [0]
    shares = [0]
    for score in sorted(gain_of, reverse=True):
        gained, total = gain_of[score]
        curve.append(curve[-1] + gained)
        shares.append(shares[-1] + total)
    pairs = zip(pairwise(curve), pairwise(shares), strict=True)
    area = sum((low + high) / 2 * (right - left) for (low, high), (left, right) in pairs)
    return area / (gap * shares[-1])


def oracle_scores(cases: Sequence[Case]) -> list[float]:
    """Scores of one who knows: first what only the heavyweight gets right, last what only the
    drafter does."""
    return [float(int(case.is_heavy_right) - int(case.is_draft_right)) for case in cases]
