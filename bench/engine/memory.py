"""What an engine says it needs, and what it takes.

The truth is the memory of the engine process that is its own (unique set size), less that of the
same process before it loads anything: interpreter, torch and the worker's code. The pool for KV is
kept small, because its memory is only taken when it is written to.
"""

from __future__ import annotations

import subprocess
import sys

from bench.conditions import Conditions, Model
from bench.figures import Figure, Report, at_most
from bench.fleets import ROOT
from bench.served import served
from shoal.worker.v1 import pipeline_pb2

_MIB = 1 << 20
_KV_MIB = 16
_EMPTY_ENGINE = (
    "import psutil, shoal_engine.loading, shoal_worker_gpu.engine_child;"
    "from shoal_worker_gpu.backends import torch_shard;"
    "print(psutil.Process().memory_full_info().uss)"
)


async def measure(report: Report, conditions: Conditions) -> None:
    """The engine's own figure to memory as the kernel counts it, after loading."""
    base_bytes = _empty_engine_bytes()
    report.details["empty_engine_bytes"] = base_bytes
    for model in conditions.models():
        with report.part(model.label):
            await _measure(report, model, base_bytes)


async def _measure(report: Report, model: Model, base_bytes: int) -> None:
    async with served({"one": model.plan(KV_MEMORY_MB=str(_KV_MIB))}) as up:
        fleet = up["one"]
        status = (await fleet.driver.fleet()).workers[0].beat.engines[0]
        taken_bytes = fleet.fleet.engines()[0].memory_full_info().uss - base_bytes
    said_bytes = needed_bytes(status)
    # A few MB of weights drown in what allocators keep back.
    target = at_most(10.0) if model.is_large else None
    off_percent = 100 * abs(said_bytes / taken_bytes - 1)
    report.add(
        Figure(f"{model.label} said to be needed", said_bytes / _MIB, "MiB"),
        Figure(f"{model.label} taken, beyond an empty engine", taken_bytes / _MIB, "MiB"),
        Figure(f"{model.label} said, off the truth", off_percent, "%", target),
    )
    report.details[model.label] = {"said_bytes": said_bytes, "taken_bytes": taken_bytes}


def needed_bytes(status: pipeline_pb2.EngineStatus) -> int:
    """What the engine reports as its need, the pool for KV left out."""
    return status.weight_bytes


def _empty_engine_bytes() -> int:
    run = [sys.executable, "-c", _EMPTY_ENGINE]
    return int(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
