"""Int8 against fp32 in the engine itself: one process, one thread, no fleet.

Both stages are loaded beside each other and take turns. The ratio is taken in tokens per second of
CPU time, which other work on the machine disturbs least.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.conditions import Conditions
from bench.figures import Figure, Report, Target, at_least, ratio_figure
from bench.rounds import Round, Sample, as_json, interleaved, median, ratio
from bench.streams import random_ids
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.shape import LayerRange, read_shape
from shoal_engine.stage import Row, Stage, StageBatch

BATCHES = (1, 4, 8)
PREFILL_TOKENS = 128
SHAPES = ("tinyllama-1.1b", "qwen2.5-0.5b")
_HISTORY_TOKENS = 32
_TARGETS = {"decode b1": at_least(2.5), "decode b8": at_least(5.0), "prefill": at_least(1.7)}


async def measure(report: Report, conditions: Conditions) -> None:
    """Decode at 1, 4 and 8 sequences and a 128-token prefill, int8 to fp32."""
    names = ("demo",) if conditions.is_quick else SHAPES
    for name in names:
        folder = conditions.demo().folder if name == "demo" else conditions.checkpoint(name)
        await _compare(report, name, folder, conditions)
        gc.collect()


async def _compare(report: Report, name: str, folder: Path, conditions: Conditions) -> None:
    stages = {kind: load(folder, kind) for kind in ("none", "int8")}
    report.details[f"{name} weight_bytes"] = {k: s.weight_bytes for k, s in stages.items()}
    steps = 8 if conditions.is_quick else 4
    tasks: dict[str, Callable[[Stage], Sample]] = {
        f"decode b{batch}": _decoding(batch, steps) for batch in BATCHES
    }
    tasks["prefill"] = prefill
    for task, run in tasks.items():
        samples = await interleaved(
            {kind: _in_thread(run, stage) for kind, stage in stages.items()},
            conditions.large_rounds,
            # What is slow only once, such as the first touch of the weights, is behind us then.
            warm_ups=1 if task == "decode b1" else 0,
        )
        # The demo model stands in when it has to be quick; the targets are not about it.
        target = None if conditions.is_quick else _TARGETS.get(task)
        _add(report, f"{name} {task}", samples["int8"], samples["none"], target)
        report.details[f"{name} {task}"] = as_json(samples)


def _add(
    report: Report, name: str, int8: list[Sample], fp32: list[Sample], target: Target | None
) -> None:
    report.add(
        ratio_figure(f"{name}, int8 to fp32", ratio(int8, fp32), target),
        Figure(f"{name}, int8", median(int8), "tok/CPU-s"),
        Figure(f"{name}, fp32", median(fp32), "tok/CPU-s"),
    )


def load(folder: Path, quantization: str) -> Stage:
    """The whole model on one thread."""
    shape = read_shape(folder)
    options = StageOptions(threads=1, kv_blocks=64, quantization=quantization)
    return load_stage(folder, LayerRange(0, shape.layer_count), options)


def _in_thread(run: Callable[[Stage], Sample], stage: Stage) -> Round:
    async def round_of() -> Sample:
        return await asyncio.to_thread(run, stage)

    return round_of


def _decoding(batch: int, steps: int) -> Callable[[Stage], Sample]:
    def decode(stage: Stage) -> Sample:
        """`steps` steps of `batch` sequences, each behind a short history."""
        prompt = random_ids(_HISTORY_TOKENS, stage.shape.vocab_size)
        kvs = [stage.pool.sequence(_HISTORY_TOKENS + steps) for _ in range(batch)]
        for kv in kvs:
            stage.forward(StageBatch([Row(kv, 0, len(prompt))], token_ids=torch.tensor(prompt)))
        tokens = torch.tensor(prompt[:batch])
        clock = _Clock()
        for step in range(steps):
            rows = [Row(kv, _HISTORY_TOKENS + step, 1) for kv in kvs]
            logits = stage.forward(StageBatch(rows, token_ids=tokens)).logits
            assert logits is not None
            tokens = logits.argmax(-1)
        sample = clock.sample(batch * steps)
        for kv in kvs:
            stage.pool.release(kv.blocks)
        return sample

    return decode


def prefill(stage: Stage) -> Sample:
    """One prompt in one step."""
    ids = torch.tensor(random_ids(PREFILL_TOKENS, stage.shape.vocab_size))
    kv = stage.pool.sequence(PREFILL_TOKENS)
    clock = _Clock()
    stage.forward(StageBatch([Row(kv, 0, PREFILL_TOKENS)], token_ids=ids))
    sample = clock.sample(PREFILL_TOKENS)
    stage.pool.release(kv.blocks)
    return sample


class _Clock:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def sample(self, tokens: int) -> Sample:
        wall_s = time.perf_counter() - self._wall
        cpu_s = time.process_time() - self._cpu
        return Sample(tokens / cpu_s, wall_s, cpu_s, {"tokens": tokens})
