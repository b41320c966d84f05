"""Accuracy against cost as a picture. The only module of the package that draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from shoal_entropy_drafter.calibration.report import Calibration, SetReport

# Okabe and Ito's colours, told apart by every kind of colour vision; shapes differ as well.
_BLUE, _ORANGE, _GREEN, _GREY, _PURPLE = "#0072B2", "#D55E00", "#009E73", "#555555", "#CC79A7"
_SIZE_INCHES = (9.0, 6.0)
_DPI = 130


def draw(calibration: Calibration, path: Path) -> None:
    """Both curves, both models alone, random mix, oracle, knee and chosen point, as PNG."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = calibration.test or calibration.calibrate
    _references(axes, shown, "test" if calibration.test else "calibration")
    _curve(axes, calibration.calibrate, "cascade, calibration set", _BLUE, "--")
    if calibration.test is not None:
        _curve(axes, calibration.test, "cascade, test set", _ORANGE, "-")
    _marks(axes, calibration, shown)
    judging = calibration.judging
    axes.set_title(
        f"{calibration.drafter} with {calibration.heavyweight} behind it: {judging.statistic} over "
        f"{judging.window_size} tokens, {judging.candidate_count} candidates"
    )
    axes.set_xlabel("cost: tokens x parameters, heavyweight alone = 1")
    axes.set_ylabel("right answers [%]")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def _curve(axes: Any, one: SetReport, label: str, colour: str, style: str) -> None:
    points = sorted(one.points, key=lambda point: -point.threshold)
    axes.plot(
        [point.cost for point in points],
        [100 * point.accuracy for point in points],
        style,
        color=colour,
        linewidth=2,
        label=label,
    )


def _references(axes: Any, one: SetReport, name: str) -> None:
    """Both models alone and what they span, and the curve of one who knows."""
    weak = (one.drafter_cost, 100 * one.drafter_accuracy)
    strong = (1.0, 100 * one.heavyweight_accuracy)
    axes.plot(
        [weak[0], strong[0]],
        [weak[1], strong[1]],
        ":",
        color=_GREY,
        linewidth=1.5,
        label="random mix of both models",
    )
    axes.plot(
        [cost for cost, _ in one.oracle],
        [100 * accuracy for _, accuracy in one.oracle],
        "-.",
        color=_GREEN,
        linewidth=1.5,
        label=f"oracle ({name} set)",
    )
    axes.plot(*weak, "s", color=_GREY, markersize=8, label=f"drafter alone ({name} set)")
    axes.plot(*strong, "D", color=_GREY, markersize=8, label=f"heavyweight alone ({name} set)")


def _marks(axes: Any, calibration: Calibration, shown: SetReport) -> None:
    knee = calibration.calibrate.knee
    axes.plot(
        knee.cost,
        100 * knee.accuracy,
        "^",
        color=_PURPLE,
        markersize=10,
        label=f"knee, calibration set ({knee.threshold:.2f} {_unit(calibration)})",
    )
    at = shown.at_threshold
    axes.plot(
        at.cost,
        100 * at.accuracy,
        "*",
        color="black",
        markersize=15,
        label=f"chosen: {calibration.threshold:g} {_unit(calibration)}",
    )
    axes.annotate(
        f"{shown.accuracy_share:.1%} of the heavyweight's accuracy\nat {at.cost:.0%} of its cost",
        (at.cost, 100 * at.accuracy),
        textcoords="offset points",
        xytext=(12, -34),
        fontsize=9,
    )


def _unit(calibration: Calibration) -> str:
    return "as a share" if calibration.judging.statistic == "margin" else "bits"
