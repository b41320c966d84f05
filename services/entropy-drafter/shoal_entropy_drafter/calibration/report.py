"""A calibration from cases to figures, and its form as JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal_entropy_drafter.calibration import scores
from shoal_entropy_drafter.calibration.cases import Case, Parameters, check_cases
from shoal_entropy_drafter.calibration.choice import (
    Chosen,
    GridEntry,
    choose,
    curve,
    try_grid,
)
from shoal_entropy_drafter.calibration.errors import NotCalibratable
from shoal_entropy_drafter.calibration.intervals import ROUNDS, Interval, bootstrap
from shoal_entropy_drafter.calibration.replay import Judging, Track, track_of
from shoal_entropy_drafter.calibration.scores import Point

_THRESHOLD_DIGITS = 4


@dataclass(frozen=True)
class SetReport:
    """One set of prompts under one way to judge.

    at_threshold: under the chosen threshold, wherever that was chosen. apgr: None where the
    heavyweight is no better than the drafter.
    """

    case_count: int
    drafter_accuracy: float
    heavyweight_accuracy: float
    drafter_cost: float
    auroc: float
    apgr: float | None
    oracle_apgr: float | None
    points: tuple[Point, ...]
    at_threshold: Point
    at_95: Point | None
    at_99: Point | None
    knee: Point
    oracle: tuple[tuple[float, float], ...]
    """(cost, accuracy) of one who knows which draft is wrong and the heavyweight right."""
    intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def accuracy_share(self) -> float:
        """Accuracy under the chosen threshold, of the heavyweight's."""
        return self.at_threshold.accuracy / self.heavyweight_accuracy

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_count": self.case_count,
            "drafter_accuracy": round(self.drafter_accuracy, 6),
            "heavyweight_accuracy": round(self.heavyweight_accuracy, 6),
            "drafter_cost": round(self.drafter_cost, 6),
            "auroc": round(self.auroc, 6),
            "apgr": None if self.apgr is None else round(self.apgr, 6),
            "oracle_apgr": None if self.oracle_apgr is None else round(self.oracle_apgr, 6),
            "cost_at_95": _cost(self.at_95),
            "cost_at_99": _cost(self.at_99),
            "accuracy_share": round(self.accuracy_share, 6),
            "at_threshold": self.at_threshold.as_json(),
            "knee": self.knee.as_json(),
            "intervals_95": {name: pair.as_json() for name, pair in self.intervals.items()},
        }


@dataclass(frozen=True)
class Calibration:
    """What was chosen and what it does, on the prompts it was chosen on and on others.

    unseen: the test set without the questions that are in the calibration set, too; None where
    there are no such questions.
    """

    drafter: str
    heavyweight: str
    judging: Judging
    parameters: Parameters
    chosen: Chosen
    calibrate: SetReport
    test: SetReport | None
    unseen: SetReport | None = None
    grid: tuple[GridEntry, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def threshold(self) -> float:
        return self.chosen.point.threshold

    def as_json(self) -> dict[str, Any]:
        """Figures at the top are of the calibration set; those of the other are under `test`."""
        point = self.chosen.point
        return {
            "drafter": self.drafter,
            "heavyweight": self.heavyweight,
            "threshold": self.threshold,
            "window_size": self.judging.window_size,
            "early_exit_count": self.judging.early_exit_count,
            "candidate_count": self.judging.candidate_count,
            "statistic": self.judging.statistic,
            "estimate": self.judging.estimate,
            "has_margin": self.chosen.has_margin,
            "auroc": round(self.calibrate.auroc, 6),
            "apgr": self.calibrate.as_json()["apgr"],
            "cost_at_95": _cost(self.calibrate.at_95),
            "cost_at_99": _cost(self.calibrate.at_99),
            "knee": round(self.calibrate.knee.threshold, 6),
            "precision": point.as_json()["precision"],
            "recall": point.as_json()["recall"],
            "parameters": {
                "drafter": self.parameters.drafter,
                "heavyweight": self.parameters.heavyweight,
            },
            "calibrate": self.calibrate.as_json(),
            "test": self.test.as_json() if self.test else None,
            "test_unseen": self.unseen.as_json() if self.unseen else None,
            "grid": [_grid_json(entry) for entry in self.grid],
            "notes": list(self.notes),
        }

    def curves_json(self) -> dict[str, Any]:
        """Every point of both curves, for pictures of one's own."""
        return {
            name: [point.as_json() for point in one.points]
            for name, one in (("calibrate", self.calibrate), ("test", self.test))
            if one is not None
        }


@dataclass(frozen=True)
class Asked:
    """What a calibration is asked to do.

    grid: the ways to judge; the best of several is taken. parameters: sizes of the models.
    current: how the drafter judges now, kept where nothing is better. rounds: of the bootstrap.
    """

    drafter: str
    heavyweight: str
    parameters: Parameters
    grid: tuple[Judging, ...]
    current: Judging | None = None
    rounds: int = ROUNDS


def calibrate(
    asked: Asked,
    cases: Sequence[Case],
    test_cases: Sequence[Case],
    progress: Callable[[], None] = lambda: None,
) -> Calibration:
    """Choose on `cases`, report on both; no test cases, no test figures. Raises NotCalibratable."""
    check_cases(cases)
    entries = try_grid(asked.grid, cases, asked.parameters, asked.current, progress)
    if not entries:
        raise NotCalibratable(_NO_ENTROPY)
    judging = entries[0].judging
    tracks = [track_of(case.draft, judging) for case in cases]
    points = curve(cases, tracks, asked.parameters)
    chosen = _rounded(choose(points, cases, tracks), cases, tracks, asked.parameters)
    gate = _Gate(judging, chosen.point.threshold, asked.parameters, asked.rounds)
    notes = [] if chosen.has_margin else [_NO_MARGIN]
    seen = {case.key for case in cases}
    unseen = [case for case in test_cases if case.key not in seen]
    return Calibration(
        drafter=asked.drafter,
        heavyweight=asked.heavyweight,
        judging=judging,
        parameters=asked.parameters,
        chosen=chosen,
        calibrate=gate.report(cases),
        test=gate.report_or_note("the test set", test_cases, notes),
        unseen=gate.report_or_note("what of it was not seen", unseen, notes)
        if len(unseen) < len(test_cases)
        else None,
        grid=tuple(entries),
        notes=tuple(notes),
    )


_NO_ENTROPY = (
    "the drafter's tokens carry no entropy, so no threshold tells drafts apart: look whether it "
    "gives log-probabilities (top_logprobs)"
)
_NO_MARGIN = (
    "no threshold keeps 99 % of the heavyweight's accuracy with a margin for chance; the one that "
    "comes closest was taken: more prompts narrow the margin"
)


@dataclass(frozen=True)
class _Gate:
    """What was chosen, to be tried on any set."""

    judging: Judging
    threshold: float
    parameters: Parameters
    rounds: int

    def report(self, cases: Sequence[Case]) -> SetReport:
        """Raises NotCalibratable."""
        check_cases(cases)
        tracks = [track_of(case.draft, self.judging) for case in cases]
        points = curve(cases, tracks, self.parameters)
        if not points:
            raise NotCalibratable(_NO_ENTROPY)
        count = len(cases)
        heavy_accuracy = sum(case.is_heavy_right for case in cases) / count
        heavy_tokens = sum(case.heavy.completion_tokens for case in cases)
        draft_tokens = sum(case.draft.completion_tokens for case in cases)
        return SetReport(
            case_count=count,
            drafter_accuracy=sum(case.is_draft_right for case in cases) / count,
            heavyweight_accuracy=heavy_accuracy,
            drafter_cost=self.parameters.ratio * draft_tokens / max(1, heavy_tokens),
            auroc=scores.auroc(tracks, cases),
            apgr=scores.apgr([track.score for track in tracks], cases),
            oracle_apgr=scores.apgr(scores.oracle_scores(cases), cases),
            points=tuple(points),
            at_threshold=scores.point_at(self.threshold, cases, tracks, self.parameters),
            at_95=scores.cost_at(0.95, points, heavy_accuracy),
            at_99=scores.cost_at(0.99, points, heavy_accuracy),
            knee=scores.knee(points),
            oracle=_oracle(cases, self.parameters),
            intervals=bootstrap(self.threshold, cases, tracks, self.parameters, self.rounds),
        )

    def report_or_note(
        self, name: str, cases: Sequence[Case], notes: list[str]
    ) -> SetReport | None:
        """None where there are no cases, and None with a note where they can tell nothing."""
        try:
            return self.report(cases) if cases else None
        except NotCalibratable as err:
            notes.append(f"no figures of {name}: {err}")
            return None


def _rounded(
    chosen: Chosen, cases: Sequence[Case], tracks: Sequence[Track], parameters: Parameters
) -> Chosen:
    """The threshold with few digits, its point measured again under them."""
    threshold = float(f"{chosen.point.threshold:.{_THRESHOLD_DIGITS}g}")
    return Chosen(scores.point_at(threshold, cases, tracks, parameters), chosen.has_margin)


def _oracle(cases: Sequence[Case], parameters: Parameters) -> tuple[tuple[float, float], ...]:
    """The cheapest gain first: drafts in full, then the heavyweight where it alone is right.

    Knowing before the draft what it will be would save the draft, too; this one still drafts, as
    every cascade does.
    """
    heavy_tokens = max(1, sum(case.heavy.completion_tokens for case in cases))
    draft_tokens = sum(case.draft.completion_tokens for case in cases)
    cost = parameters.ratio * draft_tokens
    right = sum(case.is_draft_right for case in cases)
    found = [(cost / heavy_tokens, right / len(cases))]
    gains = sorted(
        case.heavy.completion_tokens
        for case in cases
        if case.is_heavy_right and not case.is_draft_right
    )
    for tokens in gains:
        cost, right = cost + tokens, right + 1
        found.append((cost / heavy_tokens, right / len(cases)))
    return tuple(found)


def _cost(point: Point | None) -> float | None:
    return None if point is None else round(point.cost, 6)


def _grid_json(entry: GridEntry) -> dict[str, Any]:
    return {
        "window_size": entry.judging.window_size,
        "early_exit_count": entry.judging.early_exit_count,
        "statistic": entry.judging.statistic,
        "estimate": entry.judging.estimate,
        "auroc": round(entry.auroc, 6),
        "cost_at_95": None if entry.cost_at_95 is None else round(entry.cost_at_95, 6),
        "cost_at_99": None if entry.cost_at_99 is None else round(entry.cost_at_99, 6),
        "threshold": round(entry.chosen.point.threshold, 6),
        "cost": round(entry.chosen.point.cost, 6),
        "has_margin": entry.chosen.has_margin,
    }
