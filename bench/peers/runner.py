"""Which peers there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.peers import llama_cpp, petals
from bench.running import Measure, run_program

MEASUREMENTS: Mapping[str, Measure] = {
    "llama_cpp": llama_cpp.measure,
    "petals": petals.measure,
}


def main(argv: Sequence[str] | None = None) -> None:
    run_program("peers", "Other engines on this machine, in the same run.", MEASUREMENTS, argv)
