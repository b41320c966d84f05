"""Owns: what placement knows of machines, of what they hold of a model, and of the ways between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Fit(Enum):
    """How a range finds room, best first."""

    BESIDE = "beside all that is loaded"
    INSTEAD = "when idle models leave"
    LEAST = "in a smaller number format"


@dataclass(frozen=True, slots=True)
class Held:
    """A range of the model that a machine holds, or is about to.

    is_pinned: an operator has fixed it. memory_bytes: what unloading it frees.
    """

    layer_start: int
    layer_stop: int
    memory_bytes: int = 0
    is_pinned: bool = False
    is_ready: bool = True


@dataclass(frozen=True, slots=True)
class Machine:
    """A worker as one model sees it.

    free_bytes: for new engines, within the cap that was set. idle_bytes: what leaves for them if it
    must. layer_us: of one layer of this model for one token's decode step, measured or estimated.
    held: ranges of this model. is_locked: nothing is loaded or unloaded there by the router, as on
    a machine that takes no orders, which has no locator.
    """

    node_id: str
    locator: str = ""
    region: str = ""
    host_id: str = ""
    reach: int = 0
    free_bytes: int = 0
    idle_bytes: int = 0
    layer_us: float = 1000.0
    is_measured: bool = False
    held: tuple[Held, ...] = ()
    is_locked: bool = False

    @property
    def room_bytes(self) -> int:
        return self.free_bytes + self.idle_bytes

    @property
    def is_fixed(self) -> bool:
        """Takes no ranges of this model: locked, or its operator has said which ones it holds."""
        return self.is_locked or not self.locator or any(held.is_pinned for held in self.held)


@dataclass(frozen=True, slots=True)
class PlacedRange:
    """Layers [layer_start, layer_stop) on one machine."""

    node_id: str
    layer_start: int
    layer_stop: int


@dataclass(frozen=True, slots=True)
class Links:
    """What a hop costs, one way. Measured pairs count in both directions.

    visit_us: what sending and taking one token's state costs the machine itself.
    """

    rtt_us: Mapping[tuple[str, str], float] = field(default_factory=dict)
    bytes_per_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    local_us: float = 200.0
    region_us: float = 1000.0
    far_us: float = 40_000.0
    region_bytes_per_s: float = 100e6
    far_bytes_per_s: float = 10e6
    visit_us: float = 50.0

    def hop_us(self, source: Machine, target: Machine, size_bytes: int) -> float:
        """From one machine to another, 0 for the same one."""
        if source.node_id == target.node_id:
            return 0.0
        pair = (source.node_id, target.node_id)
        back = (target.node_id, source.node_id)
        rtt_us = self.rtt_us.get(pair) or self.rtt_us.get(back)
        rate = self.bytes_per_s.get(pair) or self.bytes_per_s.get(back)
        if source.host_id and source.host_id == target.host_id:
            return rtt_us / 2 if rtt_us else self.local_us
        is_near = source.region == target.region
        one_way_us = rtt_us / 2 if rtt_us else self.region_us if is_near else self.far_us
        rate = rate or (self.region_bytes_per_s if is_near else self.far_bytes_per_s)
        return one_way_us + size_bytes / rate * 1e6
