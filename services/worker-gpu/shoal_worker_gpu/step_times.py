"""Where the time of a generation went: sums over its steps, stage by stage.

Adding a step costs a few integers per stage, however long the reply gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.worker.v1 import stage_pb2

_UINT32_MAX = (1 << 32) - 1
_FIELD_COUNT = 4


@dataclass(frozen=True)
class StepTimes:
    """One step as it came back to its head.

    figures: queue, compute and wire microseconds and rows of each stage, one after the other.
    """

    stages: Sequence[stage_pb2.StageTiming]
    figures: tuple[int, ...]


def step_times(stages: Sequence[stage_pb2.StageTiming], flight_s: float) -> StepTimes:
    """What the stages said of a step that was under way for `flight_s`.

    What none of them accounts for was spent on the way back from the last one.
    """
    figures: list[int] = []
    for stage in stages:
        figures += (stage.queue_us, stage.compute_us, stage.wire_us, stage.row_count)
    if figures:
        accounted_us = sum(figures) - sum(figures[_FIELD_COUNT - 1 :: _FIELD_COUNT]) - figures[-2]
        figures[-2] = max(0, int(flight_s * 1e6) - accounted_us)
    return StepTimes(stages, tuple(figures))


class TimeSums:
    """Sums over the steps of one generation."""

    def __init__(self) -> None:
        self.step_count = 0
        self._stages: Sequence[stage_pb2.StageTiming] = ()
        self._figures: list[int] = []

    def add(self, step: StepTimes) -> None:
        """Another step, of the same stages."""
        self.step_count += 1
        if len(step.figures) != len(self._figures):
            self._figures = [0] * len(step.figures)
        self._figures = [
            total + more for total, more in zip(self._figures, step.figures, strict=True)
        ]
        self._stages = step.stages

    def timings(self) -> list[stage_pb2.StageTiming]:
        """One message per stage, in order."""
        found = []
        for index, stage in enumerate(self._stages):
            start = index * _FIELD_COUNT
            figures = self._figures[start : start + _FIELD_COUNT]
            queue_us, compute_us, wire_us, rows = (min(f, _UINT32_MAX) for f in figures)
            found.append(
                stage_pb2.StageTiming(
                    node_id=stage.node_id,
                    layer_start=stage.layer_start,
                    layer_stop=stage.layer_stop,
                    queue_us=queue_us,
                    compute_us=compute_us,
                    wire_us=wire_us,
                    row_count=rows,
                )
            )
        return found
