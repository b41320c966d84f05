"""Who leaves, case by case."""

from __future__ import annotations

import pytest

from shoal_worker_gpu.assignment import Assignment
from shoal_worker_gpu.room import Resident, least_recently_used, outlived, to_make_room


def resident(
    model: str,
    last_used_s: float,
    *,
    memory: int = 10,
    is_idle: bool = True,
    is_pinned: bool = False,
) -> Resident:
    return Resident(Assignment(model), memory, last_used_s, is_idle, is_pinned)


OLD, MIDDLE, NEW = resident("old", 1), resident("middle", 2), resident("new", 3)
BUSY = resident("busy", 0, is_idle=False)
PINNED = resident("pinned", 0, is_pinned=True)


def names(assignments: tuple[Assignment, ...]) -> list[str]:
    return [assignment.model for assignment in assignments]


@pytest.mark.parametrize(
    ("needed", "free", "leaving"),
    [
        pytest.param(20, 20, [], id="free already"),
        pytest.param(21, 20, ["old"], id="the least recently used"),
        pytest.param(31, 20, ["old", "middle"], id="as many as it takes"),
        pytest.param(50, 20, ["old", "middle", "new"], id="all that may"),
        pytest.param(51, 20, [], id="nobody where all would not do"),
    ],
)
def test_room_is_made_by_the_least_recently_used(
    needed: int, free: int, leaving: list[str]
) -> None:
    assert names(to_make_room([NEW, BUSY, OLD, PINNED, MIDDLE], needed, free)) == leaving


def test_who_leaves_first() -> None:
    assert least_recently_used([NEW, BUSY, OLD, PINNED]) == Assignment("old")
    assert least_recently_used([BUSY, PINNED]) is None


@pytest.mark.parametrize(
    ("now_s", "idle_s", "leaving"),
    [(10, 8, ["old", "middle"]), (10, 9.5, []), (100, 0, [])],
)
def test_who_was_not_used_for_long(now_s: float, idle_s: float, leaving: list[str]) -> None:
    assert names(outlived([NEW, BUSY, OLD, PINNED, MIDDLE], now_s, idle_s)) == leaving
