"""Owns: which machines may work together: those of one region, or, if no region can serve alone,
those of the regions that are nearest to one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal_router.placement.machines import Links, Machine

# A region that is asked how far another is looks from this many of its machines.
_SAMPLE = 4

# A region serves alone unless crossing slow links makes a step this many times as quick: what it
# has is too slow then to be called a way to serve.
_CROSSING_GAIN = 3.0


@dataclass(frozen=True, slots=True)
class Area:
    """Machines that may share a pipeline. rank: by region; lower ones are used up first."""

    name: str
    machines: tuple[Machine, ...]
    rank: Mapping[str, int] = field(default_factory=dict)


def by_region(machines: Sequence[Machine]) -> list[Area]:
    """One area for each region."""
    regions: dict[str, list[Machine]] = {}
    for machine in machines:
        regions.setdefault(machine.region, []).append(machine)
    return [Area(name, tuple(members)) for name, members in sorted(regions.items())]


def across(machines: Sequence[Machine], links: Links) -> list[Area]:
    """All machines, once as seen from each region: itself first, then the nearest."""
    areas = by_region(machines)
    if len(areas) < 2:
        return []
    found = []
    for home in areas:
        order = sorted(areas, key=lambda area: (_distance_us(home, area, links), area.name))
        rank = {area.name: index for index, area in enumerate(order)}
        found.append(Area(f"from {home.name or 'no region'} on", tuple(machines), rank))
    return found


def _distance_us(home: Area, area: Area, links: Links) -> float:
    if home is area:
        return -1.0
    return min(
        links.hop_us(source, target, 0)
        for source in home.machines[:_SAMPLE]
        for target in area.machines[:_SAMPLE]
    )


def covers_well(alone_us: float, across_us: float) -> bool:
    """Whether a region's own way is good enough not to look beyond it."""
    return alone_us < float("inf") and alone_us < across_us * _CROSSING_GAIN
