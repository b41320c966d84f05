"""What an engine said it would need, and what it took.

The truth is the memory of the engine process that is its own (unique set size), less that of the
same process before it loaded anything: interpreter, torch and the worker's code.
"""

from __future__ import annotations

import subprocess
import sys

from bench.conditions import Conditions, Model
from bench.figures import Figure, Report
from bench.fleets import ROOT
from bench.served import served

_MIB = 1 << 20
_EMPTY_ENGINE = (
    "import psutil, shoal_engine.loading, shoal_worker_gpu.engine_child;"
    "from shoal_worker_gpu.backends import torch_shard;"
    "print(psutil.Process().memory_full_info().uss)"
)


async def measure(conditions: Conditions) -> Report:
    """Weights as reported and memory as the kernel counts it, after loading."""
    report = Report("memory")
    base_bytes = _empty_engine_bytes()
    report.details["empty_engine_bytes"] = base_bytes
    for model in conditions.models():
        await _measure(report, model, base_bytes)
    return report


async def _measure(report: Report, model: Model, base_bytes: int) -> None:
    async with served({"one": model.plan()}) as up:
        fleet = up["one"]
        status = (await fleet.driver.fleet()).workers[0].beat.engines[0]
        taken_bytes = fleet.fleet.engines()[0].memory_full_info().uss - base_bytes
    report.add(
        Figure(f"{model.label} weights as reported", status.weight_bytes / _MIB, "MiB"),
        Figure(f"{model.label} engine, beyond an empty one", taken_bytes / _MIB, "MiB"),
    )
    report.details[model.label] = {
        "weight_bytes": status.weight_bytes,
        "taken_bytes": taken_bytes,
        "kv_blocks_total": status.kv_blocks_total,
    }


def _empty_engine_bytes() -> int:
    run = [sys.executable, "-c", _EMPTY_ENGINE]
    return int(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
