"""What a measurement says: figures with their targets, as a table and as JSON.

Owns the form of results. Does not know how they were measured. Nothing here asserts: a target that
is missed is printed as missed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.rounds import Ratio


@dataclass(frozen=True)
class Target:
    """What a figure should be: at least or at most `bound`, in the figure's unit."""

    bound: float
    sense: Literal["at least", "at most"] = "at least"

    def is_met(self, value: float) -> bool:
        return value >= self.bound if self.sense == "at least" else value <= self.bound

    def share(self, value: float) -> float:
        """How much of the target is reached: 1 is just met, whatever the sense."""
        if self.sense == "at least":
            return value / self.bound
        return self.bound / value if value > 0 else float("inf")

    def __str__(self) -> str:
        return f"{'>=' if self.sense == 'at least' else '<='} {number(self.bound)}"


def at_least(bound: float) -> Target:
    return Target(bound, "at least")


def at_most(bound: float) -> Target:
    return Target(bound, "at most")


@dataclass(frozen=True)
class Figure:
    """One number. `least` and `most` over the rounds, where there were several."""

    name: str
    value: float
    unit: str = "x"
    target: Target | None = None
    least: float | None = None
    most: float | None = None

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return "met" if self.target.is_met(self.value) else "missed"


def ratio_figure(name: str, ratio: Ratio, target: Target | None = None) -> Figure:
    """A quotient with its spread."""
    return Figure(name, ratio.median, "x", target, ratio.least, ratio.most)


class Skipped(Exception):
    """This measurement, or a part of it, cannot run here; the text says why."""


@dataclass
class Report:
    """What one measurement found, or why it found nothing.

    load_before, load_after: the machine's load averages; wall_s: what the measurement took, with
    starting what it measures; skipped, failed: the reason, empty when it ran to its end.
    """

    name: str
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    load_before: list[float] = field(default_factory=list)
    load_after: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    skipped: str = ""
    failed: str = ""

    def add(self, *figures: Figure) -> None:
        self.figures.extend(figures)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around a part without which the measurement goes on; a skipped one is noted."""
        try:
            yield
        except Skipped as err:
            self.notes.append(f"{name} left out: {err}")

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "skipped": self.skipped,
            "failed": self.failed,
            "load_before": self.load_before,
            "load_after": self.load_after,
            "wall_s": round(self.wall_s, 1),
            "figures": [_figure_json(figure) for figure in self.figures],
            "notes": self.notes,
            "details": self.details,
        }


def _figure_json(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "value": figure.value,
        "unit": figure.unit,
        "target": str(figure.target) if figure.target else None,
        "verdict": figure.verdict or None,
        "least": figure.least,
        "most": figure.most,
    }


def number(value: float) -> str:
    """Three digits that count, without powers of ten."""
    magnitude = abs(value)
    if magnitude >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}"


def table(reports: Sequence[Report]) -> str:
    """All figures as a Markdown table, then what was skipped, notes and loads."""
    rows = [("measurement", "figure", "value", "spread", "target", "")]
    for report in reports:
        for figure in report.figures:
            rows.append(_row(report.name, figure))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [_line(rows[0], widths), "|" + "|".join("-" * (width + 2) for width in widths) + "|"]
    lines += [_line(row, widths) for row in rows[1:]]
    lines.append("")
    for report in reports:
        lines += _footer(report)
    return "\n".join(lines)


def _row(name: str, figure: Figure) -> tuple[str, str, str, str, str, str]:
    spread = ""
    if figure.least is not None and figure.most is not None:
        spread = f"{number(figure.least)} to {number(figure.most)}"
    value = f"{number(figure.value)} {figure.unit}"
    target = str(figure.target) if figure.target else ""
    return name, figure.name, value, spread, target, figure.verdict


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"


def _footer(report: Report) -> list[str]:
    if report.skipped:
        return [f"{report.name}: skipped, {report.skipped}"]
    if report.failed:
        return [f"{report.name}: failed, {report.failed}"]
    load = f"load {_loads(report.load_before)} before, {_loads(report.load_after)} after"
    return [f"{report.name}: {report.wall_s:.0f} s, {load}", *(f"  {n}" for n in report.notes)]


def _loads(values: Sequence[float]) -> str:
    return "/".join(f"{value:.1f}" for value in values)


def write(reports: Sequence[Report], machine: dict[str, Any], stem: Path) -> None:
    """`stem`.json and `stem`.md."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": machine, "reports": [report.as_json() for report in reports]}
    stem.with_suffix(".json").write_text(json.dumps(data, indent=2) + "\n")
    stem.with_suffix(".md").write_text(table(reports) + "\n")
