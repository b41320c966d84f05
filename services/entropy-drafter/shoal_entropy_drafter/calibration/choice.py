"""Which threshold to take, and under which window. Pure.

The threshold is chosen on one set of prompts and reported on another. The cheapest threshold that
keeps 99 % of the heavyweight's accuracy on the first set owes part of that to luck: hundreds of
thresholds were tried, and the best of them looks better than it is. So it has to keep them with a
margin: 1.645 standard errors of the difference, taken prompt by prompt, above 99 % (a one-sided
95 % bound). Where none does, the one that comes closest is taken, and that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import get_args

from shoal_entropy_drafter.calibration.cases import Case, Parameters
from shoal_entropy_drafter.calibration.replay import Judging, Track, thresholds_between, track_of
from shoal_entropy_drafter.calibration.scores import Point, auroc, cost_at, point_at
from shoal_entropy_drafter.entropy import Estimate, Statistic

ACCURACY_SHARE = 0.99
MARGIN_ERRORS = 1.645
WINDOW_SIZES = (1, 2, 4, 8, 10, 16)
EARLY_EXIT_COUNTS = (4, 10)
CURVE_POINTS_MAX = 600
GRID_POINTS_MAX = 150
COST_SLACK = 0.02
"""Costs of two ways to judge that differ by less are the same: ten prompts of five hundred decide
them, and other prompts would decide otherwise."""


@dataclass(frozen=True)
class Chosen:
    """A threshold; `has_margin` tells whether it keeps the accuracy with the margin."""

    point: Point
    has_margin: bool


@dataclass(frozen=True)
class GridEntry:
    """One way to judge, with its own best threshold on the calibration set."""

    judging: Judging
    auroc: float
    cost_at_95: float | None
    cost_at_99: float | None
    chosen: Chosen


def curve(
    cases: Sequence[Case],
    tracks: Sequence[Track],
    parameters: Parameters,
    count_max: int = CURVE_POINTS_MAX,
) -> list[Point]:
    """Points under every threshold that makes a difference, thresholds ascending."""
    thresholds = thresholds_between(tracks, count_max)
    return [point_at(threshold, cases, tracks, parameters) for threshold in thresholds]


def choose(points: Sequence[Point], cases: Sequence[Case], tracks: Sequence[Track]) -> Chosen:
    """The cheapest threshold that keeps the accuracy with a margin; see the module's docstring."""
    assert points
    kept = [(point, _margin(point.threshold, cases, tracks)) for point in points]
    safe = [point for point, margin in kept if margin >= 0]
    if safe:
        return Chosen(min(safe, key=lambda point: (point.cost, point.threshold)), True)
    closest, _ = max(kept, key=lambda pair: (pair[1], -pair[0].cost))
    return Chosen(closest, False)


def judgings(
    candidate_count: int,
    windows: Iterable[int] = WINDOW_SIZES,
    early_exits: Iterable[int] = EARLY_EXIT_COUNTS,
    statistics: Iterable[Statistic] = get_args(Statistic),
    estimates: Iterable[Estimate] = get_args(Estimate),
) -> list[Judging]:
    """The grid. An early exit behind the first full window changes no verdict, so it is left out;
    the margin is the same whatever the estimate."""
    return [
        Judging(window, early_exit, candidate_count, statistic, estimate)
        for statistic in statistics
        for estimate in (("renormalised",) if statistic == "margin" else tuple(estimates))
        for window in windows
        for early_exit in sorted({window, *(count for count in early_exits if count < window)})
    ]


def try_grid(
    grid: Sequence[Judging],
    cases: Sequence[Case],
    parameters: Parameters,
    current: Judging | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[GridEntry]:
    """Every way to judge with its best threshold; best first. current: the one in effect now."""
    entries = []
    for judging in grid:
        tracks = [track_of(case.draft, judging) for case in cases]
        points = curve(cases, tracks, parameters, GRID_POINTS_MAX)
        progress()
        if points:
            entries.append(_entry(judging, cases, tracks, points))
    return ranked(entries, current)


def ranked(entries: Sequence[GridEntry], current: Judging | None = None) -> list[GridEntry]:
    """Those with a margin before those without; then by cost of the chosen threshold.

    Whatever is within COST_SLACK of the cheapest is as good. Of those the one in effect stays, for
    nothing is won by another; then the published way comes first (renormalised mean), then the
    shorter window, because streams lag behind by one, then the fewer first tokens, then the larger
    AUROC.
    """
    if not entries:
        return []
    first = min(not entry.chosen.has_margin for entry in entries)
    fit = [entry for entry in entries if (not entry.chosen.has_margin) == first]
    least = min(entry.chosen.point.cost for entry in fit)

    def order(entry: GridEntry) -> tuple[object, ...]:
        judging, cost = entry.judging, entry.chosen.point.cost
        is_close = cost <= least + COST_SLACK
        return (
            not entry.chosen.has_margin,
            0.0 if is_close else cost,
            judging != current,
            judging.statistic != "mean",
            judging.estimate != "renormalised",
            judging.window_size,
            judging.early_exit_count,
            -entry.auroc,
        )

    return sorted(entries, key=order)


def _entry(
    judging: Judging, cases: Sequence[Case], tracks: Sequence[Track], points: Sequence[Point]
) -> GridEntry:
    heavy_accuracy = sum(case.is_heavy_right for case in cases) / len(cases)
    at_95, at_99 = (cost_at(share, points, heavy_accuracy) for share in (0.95, 0.99))
    return GridEntry(
        judging,
        auroc(tracks, cases),
        at_95.cost if at_95 else None,
        at_99.cost if at_99 else None,
        choose(points, cases, tracks),
    )


def _margin(threshold: float, cases: Sequence[Case], tracks: Sequence[Track]) -> float:
    """How far the accuracy lies above the wanted share of the heavyweight's, margin taken off."""
    over = []
    for case, track in zip(cases, tracks, strict=True):
        is_right = case.is_draft_right if track.score <= threshold else case.is_heavy_right
        over.append(is_right - ACCURACY_SHARE * case.is_heavy_right)
    count = len(over)
    mean = sum(over) / count
    variance = sum((value - mean) ** 2 for value in over) / max(1, count - 1)
    return mean - MARGIN_ERRORS * sqrt(variance / count)
