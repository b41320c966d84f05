"""Which measurements there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.engine import batching, grammar, int8, long_prompts, memory, pipeline, prefix
from bench.running import Measure, run_program

MEASUREMENTS: Mapping[str, Measure] = {
    "int8": int8.measure,
    "batching": batching.measure,
    "long_prompts": long_prompts.measure,
    "prefix": prefix.measure,
    "pipeline": pipeline.measure,
    "grammar": grammar.measure,
    "memory": memory.measure,
}


def main(argv: Sequence[str] | None = None) -> None:
    run_program("engine", "What the shard engine's speed rests on.", MEASUREMENTS, argv)
