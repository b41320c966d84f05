"""Owns: `place`: which ways to place a model are considered, and which one wins.

Pure and deterministic: machines are looked at in the order of their names, whatever order they
come in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shoal_router.placement.candidates import Goal, Placements
from shoal_router.placement.machines import Links, Machine
from shoal_router.placement.one_way import one_way
from shoal_router.placement.shape import ModelShape
from shoal_router.placement.spread import spread


def place(
    shape: ModelShape,
    machines: Sequence[Machine],
    links: Links,
    goal: Goal,
    avoid: Collection[str] = (),
) -> Placements:
    """Every way considered to place a model on these machines, and the one to take.

    Ranges that are pinned or on locked machines are part of every candidate as they are. Nodes to
    `avoid` are used only where nothing else does. Nothing ever takes more memory than there is.
    """
    ordered = sorted(machines, key=lambda m: m.node_id)
    assert len({m.node_id for m in ordered}) == len(ordered), "a node is named twice"
    if goal is Goal.ONE_WAY:
        return one_way(shape, ordered, links, frozenset(avoid))
    return spread(shape, [m for m in ordered if m.node_id not in avoid or m.held], links)
