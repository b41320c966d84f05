"""Measures against numbers worked out by hand and against brute force."""

from collections.abc import Callable, Sequence
from random import Random

import pytest

from shoal_entropy_drafter.calibration import scores
from shoal_entropy_drafter.calibration.cases import Case, Parameters
from shoal_entropy_drafter.calibration.choice import curve
from shoal_entropy_drafter.calibration.replay import Judging, Track, track_of
from shoal_entropy_drafter.calibration.scores import Point

from .conftest import answered, case

JUDGING = Judging(2, 2, 20)
PARAMETERS = Parameters(1.0, 10.0)


def tracks_of(cases: Sequence[Case]) -> list[Track]:
    return [track_of(each.draft, JUDGING) for each in cases]


def point(cost: float, accuracy: float, threshold: float = 1.0) -> Point:
    return Point(threshold, accuracy, 0.0, cost, cost, None, None)


def test_auroc_is_the_chance_that_a_wrong_draft_scores_higher(
    drawn: Callable[[int], list[Case]],
) -> None:
    cases = drawn(60)
    tracks = tracks_of(cases)
    pairs = [
        (wrong.score > right.score) + 0.5 * (wrong.score == right.score)
        for wrong, one in zip(tracks, cases, strict=True)
        for right, other in zip(tracks, cases, strict=True)
        if not one.is_draft_right and other.is_draft_right
    ]
    assert scores.auroc(tracks, cases) == pytest.approx(sum(pairs) / len(pairs))


def test_weights_count_as_copies_do(drawn: Callable[[int], list[Case]]) -> None:
    cases = drawn(40)
    weights = [index % 3 for index in range(len(cases))]
    copies = [each for each, count in zip(cases, weights, strict=True) for _ in range(count)]
    tracks, copied = tracks_of(cases), tracks_of(copies)
    assert scores.auroc(tracks, cases, weights) == pytest.approx(scores.auroc(copied, copies))
    mine = scores.apgr([track.score for track in tracks], cases, weights)
    assert mine == pytest.approx(scores.apgr([track.score for track in copied], copies))
    one = scores.point_of(1.0, scores.outcomes(1.0, cases, tracks, PARAMETERS), weights)
    other = scores.point_at(1.0, copies, copied, PARAMETERS)
    assert one.cost == pytest.approx(other.cost)
    assert one.accuracy == pytest.approx(other.accuracy)


def test_a_point_by_hand() -> None:
    cases = [case("a", 0.1, True, True), case("b", 2.0, False, True), case("c", 3.0, True, False)]
    at = scores.point_at(1.0, cases, tracks_of(cases), PARAMETERS)
    # Drafts of 4, 2 and 2 tokens at a tenth each; two answers of 4; alone 12.
    assert at.cost == pytest.approx((0.8 + 8) / 12)
    # 0.1 s, twice half of 0.1 s and 0.4 s; alone 1.2 s.
    assert at.wall_cost == pytest.approx((0.1 + 2 * (0.05 + 0.4)) / 1.2)
    assert at.accuracy == pytest.approx(2 / 3)
    assert at.escalated_share == pytest.approx(2 / 3)
    assert at.precision == pytest.approx(1 / 2)
    assert at.recall == 1.0


def test_a_threshold_above_everything_is_the_drafter_alone(
    drawn: Callable[[int], list[Case]],
) -> None:
    cases = drawn(50)
    at = scores.point_at(1e6, cases, tracks_of(cases), PARAMETERS)
    assert at.accuracy == sum(each.is_draft_right for each in cases) / len(cases)
    assert (at.escalated_share, at.precision, at.recall) == (0.0, None, 0.0)


def test_escalating_everything_costs_more_than_the_heavyweight_alone() -> None:
    cases = [case(str(index), 2.0, False, True) for index in range(5)]
    at = scores.point_at(0.01, cases, tracks_of(cases), PARAMETERS)
    assert at.accuracy == 1.0
    assert at.cost > 1.0


def test_cost_at_is_the_cheapest_point_that_is_good_enough() -> None:
    points = [point(0.2, 0.7), point(0.5, 0.893), point(0.4, 0.892), point(1.1, 0.9)]
    found = scores.cost_at(0.99, points, 0.9)
    assert found is not None
    assert found.cost == 0.4
    assert scores.cost_at(0.99, points[:1], 0.9) is None


def test_knee_is_where_the_curve_turns_flat() -> None:
    points = [
        *(point(0.1 + step / 10, 0.5 + step / 10) for step in range(5)),
        *(point(0.6 + step / 10, 0.91) for step in range(6)),
    ]
    assert scores.knee(points).cost == pytest.approx(0.5)
    assert scores.knee(points[:1]) is points[0]


def test_apgr_by_hand() -> None:
    cases = [case("a", 3.0, False, True), case("b", 1.0, True, True)]
    # All is won with the first half: 0 to 1 over half, then 1.
    assert scores.apgr([3.0, 1.0], cases) == pytest.approx(0.5 * 0.5 + 0.5)
    assert scores.apgr([1.0, 3.0], cases) == pytest.approx(0.25)
    assert scores.apgr([1.0, 1.0], cases) == pytest.approx(0.5)


def test_apgr_of_a_random_choice_is_a_half_and_nobody_beats_the_oracle(
    drawn: Callable[[int], list[Case]],
) -> None:
    cases = drawn(1200)
    rng = Random(9)
    chance = scores.apgr([rng.random() for _ in cases], cases)
    gate = scores.apgr([track.score for track in tracks_of(cases)], cases)
    oracle = scores.apgr(scores.oracle_scores(cases), cases)
    assert chance is not None
    assert gate is not None
    assert oracle is not None
    assert chance == pytest.approx(0.5, abs=0.1)
    assert 0.6 < gate < oracle <= 1.01


def test_apgr_needs_a_better_heavyweight() -> None:
    assert scores.apgr([1.0], [case("a", 1.0, True, True)]) is None


def test_lost_logprobs_make_a_draft_the_most_doubtful() -> None:
    """A source that hides tokens must not look sure."""
    sure = case("a", 0.0, True, True)
    hidden = Case("b", "b", "", answered(9, 0.0, 0.0), sure.heavy, False, True)
    tracks = tracks_of([sure, hidden])
    assert tracks[1].score > tracks[0].score
    assert curve([sure, hidden], tracks, PARAMETERS)[0].escalated_share == 0.5
