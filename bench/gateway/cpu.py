"""CPU time and memory of processes, finer than the kernel's ticks of 10 ms where it says more."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

from bench.rounds import cpu_seconds


def cpu_time_s(processes: Iterable[psutil.Process]) -> float:
    """CPU time so far of all threads that live.

    Threads that end within a stretch take their time with them, so it suits programs whose threads
    stay. From the scheduler's nanoseconds on Linux, else from ticks.
    """
    taken = list(processes)
    total_ns = 0
    for process in taken:
        try:
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                total_ns += int((task / "schedstat").read_text().split()[0])
        except OSError:
            return cpu_seconds(taken)
    return total_ns / 1e9


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Resident memory; pages that several share are counted in each."""
    return sum(int(process.memory_info().rss) for process in processes)
