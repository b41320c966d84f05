"""Which engines leave: to make room for another one, and because nobody has asked for them.

Pure. Only engines that are idle and not pinned ever leave; the least recently used goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal_worker_gpu.assignment import Assignment


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded engine. memory_bytes: what its leaving frees."""

    assignment: Assignment
    memory_bytes: int
    last_used_s: float
    is_idle: bool
    is_pinned: bool

    @property
    def may_leave(self) -> bool:
        return self.is_idle and not self.is_pinned


def to_make_room(
    residents: Sequence[Resident], needed_bytes: int, free_bytes: int
) -> tuple[Assignment, ...]:
    """Who must leave before `needed_bytes` are free.

    Nobody where they are free, and nobody where all together would not do: what is asked for is an
    estimate, and the engine itself knows better whether it fits.
    """
    chosen: list[Assignment] = []
    for resident in _oldest_first(residents):
        if free_bytes >= needed_bytes:
            break
        chosen.append(resident.assignment)
        free_bytes += resident.memory_bytes
    return tuple(chosen) if free_bytes >= needed_bytes else ()


def least_recently_used(residents: Sequence[Resident]) -> Assignment | None:
    """Who leaves first."""
    return next((resident.assignment for resident in _oldest_first(residents)), None)


def outlived(residents: Sequence[Resident], now_s: float, idle_s: float) -> tuple[Assignment, ...]:
    """Who was not used for `idle_s`; with 0, nobody."""
    if idle_s == 0:
        return ()
    return tuple(r.assignment for r in _oldest_first(residents) if now_s - r.last_used_s >= idle_s)


def _oldest_first(residents: Sequence[Resident]) -> list[Resident]:
    return sorted((r for r in residents if r.may_leave), key=lambda r: r.last_used_s)
