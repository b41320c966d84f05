"""200 random fleets: what each scheduler carries, how fast it answers, and how far the bound is."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.conditions import Conditions
from bench.figures import Figure, Report, at_least
from bench.routing import fluid, parallax, petals
from bench.routing.fleets import FLEET_COUNT, Path, RandomFleet, random_fleet
from bench.routing.ours import PIPELINES_MAX, Ours, path_of
from bench.routing.shares import carried, flow_bound
from shoal_router.placement import PlacedRange

# Requests at once per machine where a fleet is to be full; a machine's cache has so many places.
CROWD = 16
# Requests finished per run of the fluid.
FINISHED = 240
# The load at which times are compared, of what Petals carries.
SHARE_OF_PETALS = 0.6
QUICK_COUNT = 12
ALONE = "throughput to the best single machine"


async def measure(report: Report, conditions: Conditions) -> None:
    """Every figure as the geometric mean over the fleets, with the worst and the best of them."""
    count = QUICK_COUNT if conditions.is_quick else FLEET_COUNT
    rows = [of_fleet(random_fleet(seed)) for seed in range(count)]
    wanted = {
        "throughput to round robin in turns": at_least(2.0),
        "throughput to round robin by strength": at_least(1.4),
        "throughput to the bound of the same ranges": at_least(0.9),
        "throughput to Petals, both full": at_least(1.0),
        "time per token of Petals to ours at the same load": at_least(1.15),
        "throughput to greedy shortest paths": None,
        "throughput to the bound of Petals' ranges": None,
    }
    for name, target in wanted.items():
        values = [row[name] for row in rows if row.get(name)]
        mean = statistics.geometric_mean(values)
        report.add(Figure(name, mean, "x", target, min(values), max(values)))
    name = "throughput to round robin by strength"
    # Where single machines suffice, turns by strength are all that is needed.
    large = [row[name] for row in rows if name in row and ALONE not in row]
    if large:
        mean = statistics.geometric_mean(large)
        what = f"{name}, models that no machine holds"
        report.add(Figure(what, mean, "x", at_least(1.4), min(large), max(large)))
    for name in (ALONE, "speed of one stream to it"):
        least = min(row[name] for row in rows if name in row)
        report.add(Figure(f"{name}, the worst fleet", least, "x", at_least(0.98)))
    report.add(Figure("pipelines, at most", max(row["pipelines"] for row in rows), ""))
    report.notes.append(f"{count} fleets, at most {PIPELINES_MAX} pipelines each, seeds 0 on")
    report.details["fleets"] = rows


def of_fleet(fleet: RandomFleet) -> dict[str, Any]:
    """All ratios of one fleet; what cannot be had is absent."""
    ours = Ours.placed(fleet)
    rate = carried(fleet, ours.shares)
    row: dict[str, Any] = {
        "seed": fleet.seed,
        "machines": len(fleet.machines),
        "model": fleet.shape.model,
        "pipelines": len(ours.pipelines),
        "tokens_per_s": rate,
        "throughput to the bound of the same ranges": rate / flow_bound(fleet, ours.ranges),
    }
    fixed = parallax.fixed_pipelines(fleet, parallax.placement(fleet))
    if fixed:
        row["throughput to round robin in turns"] = rate / carried(fleet, parallax.in_turns(fixed))
        strength = parallax.by_strength(fleet, fixed)
        row["throughput to round robin by strength"] = rate / carried(fleet, strength)
    row |= _beside_petals(fleet, ours)
    greedy = petals.quickest(fleet, ours.ranges)
    if greedy:
        row["throughput to greedy shortest paths"] = rate / carried(fleet, {greedy: 1.0})
    single = fleet.best_single_rate()
    if single:
        fastest_us = min(fleet.step_us(path) for path in map(path_of, ours.pipelines))
        row[ALONE] = rate / single
        row["speed of one stream to it"] = fleet.best_single_us() / fastest_us
    return row


def _beside_petals(fleet: RandomFleet, ours: Ours) -> Mapping[str, float]:
    ranges = petals.placement(fleet)
    if petals.quickest(fleet, ranges) is None:
        return {}
    policy = _petals_policy(fleet, ranges)
    rng = random.Random(fleet.seed)
    crowd = CROWD * len(fleet.machines)
    full = fluid.closed(fleet, policy, crowd, FINISHED, rng)
    own = fluid.closed(fleet, ours.policy(), crowd, FINISHED, rng)
    per_s = SHARE_OF_PETALS * min(full.tokens_per_s, own.tokens_per_s) / fluid.TOKENS
    theirs_us = fluid.open_loop(fleet, policy, per_s, FINISHED, rng).step_us
    ours_us = fluid.open_loop(fleet, ours.policy(), per_s, FINISHED, rng).step_us
    return {
        "throughput to Petals, both full": own.tokens_per_s / full.tokens_per_s,
        "time per token of Petals to ours at the same load": theirs_us / ours_us,
        "throughput to the bound of Petals' ranges": own.tokens_per_s / flow_bound(fleet, ranges),
    }


def _petals_policy(
    fleet: RandomFleet, ranges: Sequence[PlacedRange]
) -> Callable[[Counter[Path]], Path | None]:
    known: dict[frozenset[str], Path | None] = {}

    def choose(running: Counter[Path]) -> Path | None:
        on: Counter[str] = Counter()
        for path, count in running.items():
            for placed in path:
                on[placed.node_id] += count
        full = frozenset(node_id for node_id, count in on.items() if count >= CROWD)
        if full not in known:
            known[full] = petals.quickest(fleet, ranges, full)
        return known[full]

    return choose
