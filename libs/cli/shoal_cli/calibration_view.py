"""A calibration as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from shoal_cli.calibration_run import Calibrated, Options
from shoal_entropy_drafter.calibration.report import Calibration, SetReport
from shoal_entropy_drafter.calibration.scores import Point

_GRID_ROWS = 5


def rendered(calibrated: Calibrated, options: Options) -> list[RenderableType]:
    """Tables, then lines."""
    calibration = calibrated.calibration
    shown: list[RenderableType] = [_figures(calibration)]
    if len(calibration.grid) > 1:
        shown.append(_grid(calibration))
    shown += [escape(line) for line in _lines(calibrated, options)]
    return shown


def _figures(calibration: Calibration) -> Table:
    columns = [("chosen on", calibration.calibrate)]
    if calibration.test is not None:
        columns.append(("reported on", calibration.test))
    if calibration.unseen is not None:
        columns.append(("of these not seen", calibration.unseen))
    judging = calibration.judging
    table = Table(
        "figure",
        *(name for name, _ in columns),
        title=f"{calibration.drafter}, behind it {calibration.heavyweight}: {judging.statistic} "
        f"over {judging.window_size} tokens above {calibration.threshold:g} escalates",
    )
    for name, cells in _rows([one for _, one in columns]):
        table.add_row(name, *cells)
    return table


def _rows(sets: Sequence[SetReport]) -> list[tuple[str, list[str]]]:
    return [
        ("prompts", [str(one.case_count) for one in sets]),
        ("drafter right", [f"{one.drafter_accuracy:.1%}" for one in sets]),
        ("heavyweight right", [f"{one.heavyweight_accuracy:.1%}" for one in sets]),
        ("AUROC of 'drafter is wrong'", [_spread(one, "auroc", one.auroc) for one in sets]),
        ("APGR (random 0.5)", [_number(one.apgr) for one in sets]),
        ("least cost at 95 %", [_cost(one.at_95) for one in sets]),
        ("least cost at 99 %", [_cost(one.at_99) for one in sets]),
        ("knee", [f"{one.knee.threshold:.3g} (cost {one.knee.cost:.2f})" for one in sets]),
        ("at the threshold: right", [f"{one.at_threshold.accuracy:.1%}" for one in sets]),
        (
            "  of the heavyweight's",
            [_spread(one, "accuracy_share", one.accuracy_share, True) for one in sets],
        ),
        (
            "  cost, tokens x parameters",
            [_spread(one, "cost", one.at_threshold.cost) for one in sets],
        ),
        ("  cost, wall time", [_number(one.at_threshold.wall_cost) for one in sets]),
        ("  escalated", [f"{one.at_threshold.escalated_share:.1%}" for one in sets]),
        ("  of these wrong (precision)", [_number(one.at_threshold.precision) for one in sets]),
        ("  of the wrong (recall)", [_number(one.at_threshold.recall) for one in sets]),
    ]


def _grid(calibration: Calibration) -> Table:
    table = Table(
        "statistic",
        "estimate",
        "window",
        "first",
        "AUROC",
        "at 99 %",
        "threshold",
        "cost",
        title="the best ways to judge",
    )
    for entry in calibration.grid[:_GRID_ROWS]:
        judging = entry.judging
        table.add_row(
            judging.statistic,
            judging.estimate,
            str(judging.window_size),
            str(judging.early_exit_count),
            f"{entry.auroc:.3f}",
            _number(entry.cost_at_99),
            f"{entry.chosen.point.threshold:.3f}",
            f"{entry.chosen.point.cost:.3f}",
        )
    return table


def _lines(calibrated: Calibrated, options: Options) -> list[str]:
    lines = [f"note     {note}" for note in calibrated.notes]
    if options.concurrency > 1:
        lines.append(f"note     times were taken with {options.concurrency} requests at once")
    lines.append(f"figures  {calibrated.json_file}")
    if calibrated.picture:
        lines.append(f"picture  {calibrated.picture}")
    if calibrated.config is None:
        lines.append("config   left alone; --config says which to write")
        return lines
    kept = f", the old one is {calibrated.backup.name}" if calibrated.backup else ""
    lines.append(f"config   {calibrated.config}{kept}")
    lines.append("the entropy-drafter reads it when it starts: restart the fleet")
    return lines


def _cost(point: Point | None) -> str:
    return _number(None if point is None else point.cost)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _spread(one: SetReport, name: str, value: float, is_percent: bool = False) -> str:
    form = ".1%" if is_percent else ".3f"
    interval = one.intervals.get(name)
    around = f" [{interval.low:{form}}, {interval.high:{form}}]" if interval else ""
    return f"{value:{form}}{around}"
