from __future__ import annotations

from shoal_router.pace import RELEASES_TRUSTED, Pace


def test_nothing_is_told_before_anything_was_seen() -> None:
    assert Pace().wait_s(3, now_s=10, in_flight_count=4) is None


def test_before_the_queue_has_moved_the_time_slots_are_held_tells() -> None:
    pace = Pace()
    for held_s in (3.0, 5.0):
        pace.released(100, held_s, is_awaited=False)
    assert pace.wait_s(6, now_s=100, in_flight_count=8) == 3.0


def test_a_queue_that_moves_tells_its_own_pace() -> None:
    pace = Pace()
    for second in range(RELEASES_TRUSTED):
        pace.released(100 + second, 50.0, is_awaited=True)
    assert pace.per_s(99 + RELEASES_TRUSTED, in_flight_count=8) == 1.0


def test_a_queue_that_stops_moving_is_told_to_slow_down() -> None:
    pace = Pace()
    for second in range(RELEASES_TRUSTED):
        pace.released(100 + second, 50.0, is_awaited=True)
    assert pace.per_s(100 + 10 * (RELEASES_TRUSTED - 1), in_flight_count=8) == 0.1


def test_releases_of_an_idle_hour_say_nothing_about_a_crowd() -> None:
    pace = Pace()
    for hour in range(RELEASES_TRUSTED):
        pace.released(3600.0 * hour, 1.0, is_awaited=False)
    assert pace.per_s(3600.0 * RELEASES_TRUSTED, in_flight_count=4) == 4.0
