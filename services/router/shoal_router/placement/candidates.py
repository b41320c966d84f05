"""Owns: the form in which placements are handed out, the ones that lost with the one that won."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from shoal_router.placement.machines import Fit, PlacedRange


class Goal(Enum):
    """What a placement is for.

    ONE_WAY: the model is wanted and as little of the fleet as possible is to be taken; what is held
    stays where it is. SPREAD: more is asked of the model than it can give; every machine may help,
    and whatever is not pinned may move.
    """

    ONE_WAY = "one way"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to place a model.

    ranges: all that would be held of it, by node and layer. tokens_per_s: at most, of steps of one
    token; batching multiplies it alike for every candidate. step_us: of one token through the
    fastest way, infinite where layers would be missing. move_bytes: weights to be loaded that are
    not held where they are wanted. reason: why it is chosen, or why not, for people.
    """

    name: str
    ranges: tuple[PlacedRange, ...]
    tokens_per_s: float
    step_us: float
    fit: Fit = Fit.BESIDE
    move_bytes: int = 0
    is_chosen: bool = False
    reason: str = ""

    @property
    def covers(self) -> bool:
        return self.tokens_per_s > 0

    @property
    def node_ids(self) -> tuple[str, ...]:
        return tuple(sorted({each.node_id for each in self.ranges}))


@dataclass(frozen=True, slots=True)
class Placements:
    """Every way that was considered, the chosen one first, then from good to bad.

    best_single_step_us: of the fastest machine that could serve the model alone; infinite without.
    """

    goal: Goal
    candidates: tuple[Candidate, ...]
    best_single_step_us: float = float("inf")

    @property
    def chosen(self) -> Candidate | None:
        """None where nothing covers every layer."""
        return next((each for each in self.candidates if each.is_chosen), None)
