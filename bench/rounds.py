"""How variants are compared: in turns, within one run, with the machine's load beside them.

Owns the order of rounds and the statistics over them. Does not know what is measured. A machine
that others use drifts; taking turns (A B A B A B) puts the drift into both sides of a ratio, and
the ratio is taken round by round.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil


@dataclass(frozen=True)
class Sample:
    """One round of one variant.

    value: what is compared, such as tokens per second. wall_s, cpu_s: what the round took, the
    latter over every process that worked for it. details: further numbers for the record.
    """

    value: float
    wall_s: float = 0.0
    cpu_s: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ratio:
    """A quotient of two variants over the rounds."""

    median: float
    least: float
    most: float


Round = Callable[[], Awaitable[Sample]]


async def interleaved(
    variants: Mapping[str, Round], rounds: int, warm_ups: int = 1
) -> dict[str, list[Sample]]:
    """Run each variant once per round, in turns; the warm-ups before them are thrown away."""
    assert rounds > 0
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    for number in range(warm_ups + rounds):
        for name, run in variants.items():
            sample = await run()
            if number >= warm_ups:
                samples[name].append(sample)
    return samples


def ratio(above: Sequence[Sample], below: Sequence[Sample]) -> Ratio:
    """`above` to `below`, round by round: median, least and most of the quotients."""
    assert above
    quotients = [a.value / b.value for a, b in zip(above, below, strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))


def median(samples: Sequence[Sample]) -> float:
    """Of the rounds' values."""
    return statistics.median(sample.value for sample in samples)


def per_cpu_second(samples: Iterable[Sample], amount: str = "tokens") -> float:
    """Sum of the detail `amount` over the CPU seconds of all rounds."""
    taken = list(samples)
    cpu_s = sum(sample.cpu_s for sample in taken)
    return float(sum(sample.details[amount] for sample in taken)) / cpu_s if cpu_s else 0.0


def as_json(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """For the record: every round of every variant."""
    return {
        name: [
            {"value": s.value, "wall_s": s.wall_s, "cpu_s": s.cpu_s, **s.details} for s in rounds
        ]
        for name, rounds in samples.items()
    }


def machine_load() -> list[float]:
    """Runnable processes, averaged over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """CPU time of the processes so far; one that has just ended counts nothing."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


class Meter:
    """Wall and CPU time of a stretch of work: `with Meter(fleet.processes) as meter`."""

    def __init__(self, processes: Callable[[], Iterable[psutil.Process]]) -> None:
        self._processes = processes
        self.wall_s = 0.0
        self.cpu_s = 0.0

    def __enter__(self) -> Meter:
        self._cpu_s = cpu_seconds(self._processes())
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._started
        self.cpu_s = cpu_seconds(self._processes()) - self._cpu_s
