"""What a fleet carries when requests go by fixed shares, and the most that any routing could.

Throughput counts tokens per second at which the first machine has no time left. The bound is a
linear program over layers and machines: it may split every request at every layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import lil_matrix

from bench.routing.fleets import BATCHING, Path, RandomFleet
from shoal_router.placement import PlacedRange


def carried(fleet: RandomFleet, shares: Mapping[Path, float]) -> float:
    """Tokens per second with requests parted by `shares`, which sum to 1; 0 without any path."""
    busy: dict[str, float] = defaultdict(float)
    for path, share in shares.items():
        for placed in path:
            busy[placed.node_id] += share * fleet.work_us(placed)
    return BATCHING * 1e6 / max(busy.values()) if busy else 0.0


def mean_step_us(fleet: RandomFleet, shares: Mapping[Path, float]) -> float:
    """Of an idle fleet."""
    return sum(share * fleet.step_us(path) for path, share in shares.items())


def flow_bound(fleet: RandomFleet, ranges: Sequence[PlacedRange]) -> float:
    """The most tokens per second that the ranges carry, whoever decides (HiGHS).

    Variables: f, then per range and layer the flow computed there and the flow that enters there
    from another machine, which costs the visit.
    """
    spans = [(r, layer) for r in ranges for layer in range(r.layer_start, r.layer_stop)]
    column = {(id(r), layer): 1 + 2 * i for i, (r, layer) in enumerate(spans)}
    count = 1 + 2 * len(spans)
    covers = lil_matrix((fleet.shape.layer_count, count))
    times: dict[str, int] = {
        r.node_id: i for i, r in enumerate({r.node_id: r for r in ranges}.values())
    }
    uses = lil_matrix((len(times) + len(spans), count))
    row = len(times)
    for r, layer in spans:
        at = column[id(r), layer]
        covers[layer, at] = 1
        covers[layer, 0] = -1
        work = fleet.shape.work(layer, layer + 1) * fleet.by_id[r.node_id].layer_us
        uses[times[r.node_id], at] = work
        uses[times[r.node_id], at + 1] = fleet.links.visit_us
        # What is computed at a layer has been computed here at the layer before, or enters.
        uses[row, at] = 1
        uses[row, at + 1] = -1
        if layer > r.layer_start:
            uses[row, column[id(r), layer - 1]] = -1
        row += 1
    limits = np.concatenate([np.full(len(times), BATCHING * 1e6), np.zeros(len(spans))])
    _free_first_visits(fleet, ranges, uses, column, times)
    cost = np.zeros(count)
    cost[0] = -1
    found = linprog(
        cost,
        A_ub=uses.tocsr(),
        b_ub=limits,
        A_eq=covers.tocsr(),
        b_eq=np.zeros(fleet.shape.layer_count),
        method="highs",
    )
    assert found.status == 0, found.message
    return float(found.x[0])


def _free_first_visits(
    fleet: RandomFleet,
    ranges: Sequence[PlacedRange],
    uses: lil_matrix,
    column: Mapping[tuple[int, int], int],
    times: Mapping[str, int],
) -> None:
    """A request that never leaves a whole machine pays no hop; the bound grants that to all that
    enter one at its first layer, which can only raise it."""
    for r in ranges:
        if r.layer_stop - r.layer_start == fleet.shape.layer_count:
            uses[times[r.node_id], column[id(r), 0] + 1] = 0
