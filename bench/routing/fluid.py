"""Fleets under load, as a fluid: requests that decode share the machines on their path fairly.

A request's rate is what its idle path allows, or its fair share where a machine on it is full
(max-min). Its length is exponential, so that the number of requests on each path is all there is to
know. Does not know who decides: a policy is a function from what runs to a path.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.routing.fleets import BATCHING, Path, RandomFleet

Policy = Callable[[Counter[Path]], Path | None]
# Tokens of a request, on average.
TOKENS = 300.0


@dataclass(frozen=True)
class Served:
    """tokens_per_s of all; step_us: the mean time of a token, as its reader sees it."""

    tokens_per_s: float
    step_us: float
    refused_count: int = 0


class _Rates:
    """Max-min fair rates of the paths in use."""

    def __init__(self, fleet: RandomFleet) -> None:
        self._fleet = fleet
        self._index = {m.node_id: i for i, m in enumerate(fleet.machines)}
        self._known: dict[Path, tuple[NDArray[np.float64], float]] = {}

    def _row(self, path: Path) -> tuple[NDArray[np.float64], float]:
        if path not in self._known:
            row = np.zeros(len(self._index))
            for placed in path:
                row[self._index[placed.node_id]] += self._fleet.work_us(placed) / 1e6 / BATCHING
            self._known[path] = row, 1e6 / self._fleet.step_us(path)
        return self._known[path]

    def of(self, running: Counter[Path]) -> dict[Path, float]:
        """Tokens per second of one request on each path."""
        paths = [path for path, count in running.items() if count]
        rows = np.array([self._row(path)[0] for path in paths])
        rate_max = np.array([self._row(path)[1] for path in paths])
        counts = np.array([running[path] for path in paths], dtype=float)
        rates = np.zeros(len(paths))
        is_open = np.ones(len(paths), dtype=bool)
        left = np.ones(len(self._index))
        while is_open.any():
            demand = (rows * (counts * is_open)[:, None]).sum(axis=0)
            with np.errstate(divide="ignore"):
                fair = np.where(demand > 1e-15, left / np.maximum(demand, 1e-15), np.inf)
            per_path = np.where(rows > 0, fair[None, :], np.inf).min(axis=1)
            limit = np.minimum(per_path, rate_max)
            least = limit[is_open].min()
            settled = is_open & (limit <= least * (1 + 1e-9))
            rates[settled] = limit[settled]
            left = left - (rows[settled] * (counts * rates)[settled][:, None]).sum(axis=0)
            left = np.maximum(left, 0.0)
            is_open &= ~settled
        return dict(zip(paths, rates.tolist(), strict=True))


def closed(
    fleet: RandomFleet, policy: Policy, population: int, count: int, rng: random.Random
) -> Served:
    """`population` requests at any time; `count` are finished, the first third is left out."""
    return _run(fleet, policy, count, rng, population=population)


def open_loop(
    fleet: RandomFleet, policy: Policy, per_s: float, count: int, rng: random.Random
) -> Served:
    """Requests come by chance, `per_s` on average."""
    return _run(fleet, policy, count, rng, per_s=per_s)


def _run(
    fleet: RandomFleet,
    policy: Policy,
    count: int,
    rng: random.Random,
    *,
    population: int = 0,
    per_s: float = 0.0,
) -> Served:
    rates_of = _Rates(fleet)
    running: Counter[Path] = Counter()
    refused_count = done = 0
    tokens = busy_s = elapsed_s = 0.0
    for _ in range(population):
        refused_count += not _start(policy, running)
    while done < count:
        rates = rates_of.of(running) if running else {}
        leaving = {path: running[path] * rate / TOKENS for path, rate in rates.items()}
        total = sum(leaving.values()) + per_s
        if total == 0:
            break
        passed_s = rng.expovariate(total)
        if done >= count // 3:
            elapsed_s += passed_s
            tokens += passed_s * TOKENS * sum(leaving.values())
            busy_s += passed_s * sum(running.values())
        draw = rng.uniform(0, total)
        if draw < per_s:
            refused_count += not _start(policy, running)
            continue
        path = _drawn(leaving, draw - per_s)
        running[path] -= 1
        if not running[path]:
            del running[path]
        done += 1
        if population:
            refused_count += not _start(policy, running)
    if not tokens:
        return Served(0.0, float("inf"), refused_count)
    return Served(tokens / elapsed_s, busy_s / tokens * 1e6, refused_count)


def _start(policy: Policy, running: Counter[Path]) -> bool:
    path = policy(running)
    if path is None:
        return False
    running[path] += 1
    return True


def _drawn(leaving: dict[Path, float], draw: float) -> Path:
    for path, rate in leaving.items():
        draw -= rate
        if draw <= 0:
            return path
    return next(reversed(leaving))
