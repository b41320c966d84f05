"""A picture of results: how much of its target each figure reaches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure, Report, number

_MET, _MISSED = "#2a7f62", "#c0504d"
# Beyond this many times the target a longer bar says nothing more.
_SHARE_MAX = 3.0


def save(reports: Sequence[Report], path: Path) -> None:
    """One bar per figure with a target; draws nothing where there is none."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    bars = [
        (f"{report.name}: {figure.name}", figure)
        for report in reports
        for figure in report.figures
        if figure.target is not None
    ]
    if not bars:
        return
    canvas = Canvas(figsize=(11, 1.2 + 0.34 * len(bars)), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots()
    for index, (_, figure) in enumerate(bars):
        share = min(_share(figure), _SHARE_MAX)
        axes.barh(index, share, color=_MET if figure.verdict == "met" else _MISSED)
        label = f"{number(figure.value)} {figure.unit} ({figure.target})"
        axes.text(share + 0.03, index, label, va="center", fontsize=8)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, _SHARE_MAX + 0.9)
    axes.set_xlabel("share of the target that is reached (1 is just met)")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)


def _share(figure: Figure) -> float:
    assert figure.target is not None
    return figure.target.share(figure.value)
