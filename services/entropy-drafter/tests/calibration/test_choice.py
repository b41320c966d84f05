"""Which threshold is taken, and which way to judge."""

from collections.abc import Callable
from dataclasses import replace

from shoal_entropy_drafter.calibration.cases import Case, Parameters
from shoal_entropy_drafter.calibration.choice import (
    Chosen,
    GridEntry,
    choose,
    curve,
    judgings,
    ranked,
    try_grid,
)
from shoal_entropy_drafter.calibration.replay import Judging, track_of
from shoal_entropy_drafter.calibration.scores import Point, cost_at

from .conftest import case

PARAMETERS = Parameters(1.0, 10.0)
JUDGING = Judging(4, 4, 20)


def entry(judging: Judging, cost: float, has_margin: bool = True, auroc: float = 0.9) -> GridEntry:
    chosen = Chosen(Point(1.0, 0.9, 0.2, cost, cost, None, None), has_margin)
    return GridEntry(judging, auroc, None, None, chosen)


def test_the_choice_keeps_a_margin_above_the_cheapest(
    drawn: Callable[[int], list[Case]],
) -> None:
    cases = drawn(250)
    tracks = [track_of(each.draft, JUDGING) for each in cases]
    points = curve(cases, tracks, PARAMETERS)
    heavy = sum(each.is_heavy_right for each in cases) / len(cases)
    chosen, cheapest = choose(points, cases, tracks), cost_at(0.99, points, heavy)
    assert cheapest is not None
    assert chosen.has_margin
    assert chosen.point.accuracy >= 0.99 * heavy
    assert chosen.point.cost >= cheapest.cost
    assert chosen.point.threshold <= cheapest.threshold


def test_without_a_margin_the_closest_is_taken_and_said() -> None:
    # The heavyweight is worse wherever it would be asked, so that no threshold has room.
    cases = [case(f"a{n}", 0.1 + n / 1000, n % 10 != 0, n % 10 == 0) for n in range(60)]
    tracks = [track_of(each.draft, JUDGING) for each in cases]
    worse = [replace(each, is_heavy_right=True, is_draft_right=False) for each in cases[:59]]
    worse.append(replace(cases[59], is_heavy_right=False, is_draft_right=True))
    points = curve(worse, tracks, PARAMETERS)[2:]
    chosen = choose(points, worse, tracks)
    assert not chosen.has_margin
    assert chosen.point.accuracy == max(point.accuracy for point in points)


def test_the_grid_leaves_out_what_changes_nothing() -> None:
    grid = judgings(20, windows=(2, 10), early_exits=(4, 10))
    assert len(grid) == len(set(grid)) == 7 * 3
    assert {(j.window_size, j.early_exit_count) for j in grid} == {(2, 2), (10, 4), (10, 10)}
    assert {j.estimate for j in grid if j.statistic == "margin"} == {"renormalised"}


def test_every_way_to_judge_is_tried(drawn: Callable[[int], list[Case]]) -> None:
    steps = []
    grid = judgings(20, windows=(1, 4), early_exits=(4,), estimates=("renormalised",))
    found = try_grid(grid, drawn(80), PARAMETERS, progress=lambda: steps.append(1))
    assert {each.judging for each in found} == set(grid)
    assert len(steps) == len(grid) == 6
    costs = [each.chosen.point.cost for each in found if each.chosen.has_margin]
    assert costs[0] <= min(costs) + 0.02


def test_as_cheap_keeps_what_is_in_effect() -> None:
    one, other = Judging(2, 2, 20), Judging(4, 4, 20)
    entries = [entry(other, 0.472), entry(one, 0.470)]
    assert ranked(entries)[0].judging == one
    assert ranked(entries, current=other)[0].judging == other
    dearer = [entry(other, 0.50), entry(one, 0.47)]
    assert ranked(dearer, current=other)[0].judging == one


def test_a_margin_comes_before_a_price_and_the_published_statistic_before_others() -> None:
    mean, widest = Judging(4, 4, 20), Judging(4, 4, 20, "max")
    assert ranked([entry(widest, 0.3, has_margin=False), entry(mean, 0.6)])[0].judging == mean
    assert ranked([entry(widest, 0.470), entry(mean, 0.475)])[0].judging == mean
    assert ranked([]) == []
