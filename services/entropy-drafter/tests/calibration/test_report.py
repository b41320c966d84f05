"""A whole calibration, its JSON and its picture."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shoal_entropy_drafter.calibration.cases import Case, Parameters, answered_from, case_of
from shoal_entropy_drafter.calibration.choice import judgings
from shoal_entropy_drafter.calibration.errors import NotCalibratable
from shoal_entropy_drafter.calibration.intervals import bootstrap
from shoal_entropy_drafter.calibration.plot import draw
from shoal_entropy_drafter.calibration.prompts import LabelledPrompt
from shoal_entropy_drafter.calibration.replay import Judging, track_of
from shoal_entropy_drafter.calibration.report import Asked, Calibration, calibrate

from .conftest import answered, case

Drawn = Callable[..., list[Case]]
PARAMETERS = Parameters(1.0, 10.0)
ASKED = Asked("small", "large", PARAMETERS, (Judging(4, 4, 20),), rounds=40)


def calibrated(drawn: Drawn) -> Calibration:
    return calibrate(ASKED, drawn(120), drawn(90, 6))


def test_json_holds_what_is_promised(drawn: Drawn) -> None:
    calibration = calibrated(drawn)
    told = json.loads(json.dumps(calibration.as_json(), allow_nan=False))
    assert {
        "auroc", "cost_at_95", "cost_at_99", "threshold", "apgr", "window_size",
        "early_exit_count", "statistic", "candidate_count", "drafter", "heavyweight", "precision",
        "recall", "test",
    } <= set(told)  # fmt: skip
    assert told["test"]["prompt_count"] == 90
    assert told["test_unseen"] is None
    assert told["test"]["at_threshold"]["threshold"] == told["threshold"]
    assert 0.5 < told["auroc"] <= 1
    low, high = told["calibrate"]["intervals_95"]["auroc"]
    assert low <= told["auroc"] <= high
    assert json.dumps(calibration.curves_json(), allow_nan=False)


def test_questions_of_both_sets_are_reported_apart(drawn: Drawn) -> None:
    cases = drawn(100)
    calibration = calibrate(ASKED, cases, [*cases[:20], *drawn(60, 6)])
    assert calibration.test is not None
    assert calibration.unseen is not None
    assert (calibration.test.case_count, calibration.unseen.case_count) == (80, 60)


def test_without_test_cases_there_are_no_figures_of_them(drawn: Drawn) -> None:
    calibration = calibrate(ASKED, drawn(100), [])
    assert calibration.test is None
    assert calibration.as_json()["test"] is None
    few = calibrate(ASKED, drawn(100), drawn(10, 6))
    assert few.test is None
    assert "no figures of the test set: 10 prompts" in few.notes[-1]


def test_the_best_of_a_grid_is_taken(drawn: Drawn) -> None:
    grid = tuple(judgings(20, windows=(1, 4), early_exits=(4,), statistics=("mean",)))
    calibration = calibrate(replace(ASKED, grid=grid), drawn(90), [])
    assert calibration.judging == calibration.grid[0].judging
    assert len(calibration.grid) == len(grid)


@pytest.mark.parametrize(
    ("right", "count", "says"),
    [
        ([True], 49, "49 prompts were answered; at least 50"),
        ([True], 60, "the drafter was right on all 60 prompts"),
        ([False], 60, "the drafter was wrong on all 60 prompts"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(right: list[bool], count: int, says: str) -> None:
    cases = [case(str(index), 1.0, right[0], True) for index in range(count)]
    with pytest.raises(NotCalibratable, match=says):
        calibrate(ASKED, cases, [])


def test_a_heavyweight_that_is_never_right_is_refused() -> None:
    cases = [case(str(index), index / 10, index % 2 == 0, False) for index in range(60)]
    with pytest.raises(NotCalibratable, match="heavyweight was wrong on all 60"):
        calibrate(ASKED, cases, [])


def test_drafts_without_entropy_are_refused() -> None:
    cases = [case(str(index), 0.0, index % 2 == 0, True) for index in range(60)]
    with pytest.raises(NotCalibratable, match="carry no entropy"):
        calibrate(ASKED, cases, [])


def test_intervals_come_from_the_seed(drawn: Drawn) -> None:
    cases = drawn(80)
    tracks = [track_of(each.draft, Judging(4, 4, 20)) for each in cases]
    one, same, other = (
        bootstrap(1.0, cases, tracks, PARAMETERS, rounds=50, seed=seed) for seed in (1, 1, 2)
    )
    assert one == same != other
    assert all(pair.low <= pair.high for pair in one.values())
    assert set(one) == {
        "accuracy", "cost", "escalated_share", "accuracy_share", "auroc", "apgr",
    }  # fmt: skip


def test_the_picture_is_drawn(drawn: Drawn, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "calibration.png"
    draw(calibrated(drawn), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_answers_survive_their_file() -> None:
    answer = answered(3, 0.25, 1.5, text="Rome", wall_s=0.125)
    assert answered_from(json.loads(json.dumps(answer.as_json()))) == answer


def test_cases_are_judged_by_their_prompt() -> None:
    prompt = LabelledPrompt("a", ({"role": "user", "content": "?"},), "Rome")
    judged = case_of(prompt, answered(1, text="Paris"), answered(1, text="Rome"))
    assert (judged.is_draft_right, judged.is_heavy_right) == (False, True)
    assert judged.key == prompt.key
