"""Which measurements there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.routing import compare, traces
from bench.running import Measure, run_program

MEASUREMENTS: Mapping[str, Measure] = {"fleets": compare.measure, "traces": traces.measure}


def main(argv: Sequence[str] | None = None) -> None:
    run_program("routing", "Placement and routing beside other policies.", MEASUREMENTS, argv)
