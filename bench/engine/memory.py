"""What the engine expects to need before it loads anything, and what it takes then.

The expectation is the engine's own plan, made from the checkpoint's description. The truth is the
anonymous memory of the engine process, less that of the same process with nothing loaded:
interpreter, torch and the worker's code. Pages of files that it has mapped are the system's to drop
and do not count. The pool for KV is kept small, because its memory is taken when it is written to;
a step's own tensors come and go and are on neither side.
"""

from __future__ import annotations

import subprocess
import sys

import psutil

from bench.conditions import Conditions, Model
from bench.figures import Figure, Report, at_most
from bench.fleets import ROOT
from bench.served import served
from shoal_engine.loading import plan_stage
from shoal_engine.shape import LayerRange, read_shape
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.stage_loader import stage_options

_MIB = 1 << 20
_KV_MIB = 64
_EMPTY_ENGINE = (
    "import psutil, shoal_engine.loading, shoal_worker_gpu.engine_child;"
    "from shoal_worker_gpu.backends import torch_shard;"
    "info = psutil.Process().memory_info();"
    "print(info.rss - info.shared)"
)


async def measure(report: Report, conditions: Conditions) -> None:
    """The plan's weights to memory as the kernel counts it, after loading."""
    base_bytes = _empty_engine_bytes()
    report.details["empty_engine_bytes"] = base_bytes
    await _measure(report, conditions.large(), base_bytes)


async def _measure(report: Report, model: Model, base_bytes: int) -> None:
    plan = model.plan(KV_MEMORY_MB=str(_KV_MIB))
    async with served({"one": plan}) as up:
        info = up["one"].fleet.engines()[0].memory_info()
    taken_bytes = info.rss - info.shared - base_bytes
    planned_bytes = _planned_bytes(model)
    # A few MB of weights drown in what allocators keep back.
    target = at_most(10.0) if model.is_large else None
    off_percent = 100 * abs(planned_bytes / taken_bytes - 1)
    report.add(
        Figure(f"{model.label} planned", planned_bytes / _MIB, "MiB"),
        Figure(f"{model.label} taken, beyond an empty engine", taken_bytes / _MIB, "MiB"),
        Figure(f"{model.label} plan off the truth", off_percent, "%", target),
    )
    report.details[model.label] = {
        "planned_bytes": planned_bytes,
        "taken_bytes": taken_bytes,
        "resident_bytes": info.rss,
        "machine_bytes": psutil.virtual_memory().total,
    }


def _planned_bytes(model: Model) -> int:
    """Weights of the whole model, as the worker plans them with these settings."""
    layers = LayerRange(0, read_shape(model.folder).layer_count)
    quantization = model.settings.get("QUANTIZATION", "auto")
    settings = Settings.model_validate({"quantization": quantization})
    return plan_stage(model.folder, layers, stage_options(settings)).weight_bytes


def _empty_engine_bytes() -> int:
    run = [sys.executable, "-c", _EMPTY_ENGINE]
    return int(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
