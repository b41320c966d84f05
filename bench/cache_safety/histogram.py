"""A picture: how near the vectors of pairs are that ask the same, and of pairs that do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.cache_safety.verdicts import Judged

_SAME, _OTHER, _PASSED = "#2a7f62", "#c0504d", "#7fc9ad"
_BINS = np.linspace(0.3, 1.0, 57)


def draw(judged: Sequence[Judged], threshold: float, path: Path) -> None:
    """Two histograms over one axis, the part that the guard lets through in a lighter shade."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(canvas)
    upper, lower = canvas.subplots(2, 1, sharex=True)
    rows = (
        (upper, True, _SAME, "ask the same (a hit is right)"),
        (lower, False, _OTHER, "ask something else (a hit is wrong)"),
    )
    for axes, is_same, color, label in rows:
        chosen = [one for one in judged if one.pair.is_same == is_same]
        axes.hist(
            _clipped(chosen), bins=_BINS, color=color, label=f"{len(chosen)} pairs that {label}"
        )
        passed = [one for one in chosen if not one.difference]
        name = f"{len(passed)} of them pass the guard"
        axes.hist(_clipped(passed), bins=_BINS, color=_PASSED, label=name)
        axes.axvline(threshold, color="black", linewidth=1)
        right = sum(one.cosine >= threshold for one in chosen)
        axes.text(threshold, 1.02, f"{right} ▸", transform=axes.get_xaxis_transform(), fontsize=8)
        axes.set_ylabel("pairs")
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    lower.set_xlabel(
        f"cosine of the two questions' vectors; line: threshold {threshold:.2f}, ▸ pairs beyond it"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)


def _clipped(judged: Sequence[Judged]) -> list[float]:
    return [min(max(one.cosine, float(_BINS[0])), 1.0 - 1e-6) for one in judged]
