"""Which measurements there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.gateway.relays import measure
from bench.running import Measure, run_program

MEASUREMENTS: Mapping[str, Measure] = {"relays": measure}


def main(argv: Sequence[str] | None = None) -> None:
    run_program("gateway", "What gateways cost, in one run.", MEASUREMENTS, argv)
