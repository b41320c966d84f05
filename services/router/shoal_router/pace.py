"""Owns: how fast slots come free, from how long they were held. Pure; the caller has the clock."""

from __future__ import annotations

from collections import deque

RELEASES_KEPT = 64
# Releases in a row, while somebody waits, after which their own rate is believed.
RELEASES_TRUSTED = 8


class Pace:
    """Of one model. While somebody waits all slots are busy, and then releases come at the rate at
    which requests are served; at other times at the rate at which they happen to arrive. So the
    rate counts releases since the queue began, and before there are enough, by Little's law, slots
    held over the mean time one is held."""

    def __init__(self) -> None:
        self._held_s: deque[float] = deque(maxlen=RELEASES_KEPT)
        self._released_at_s: deque[float] = deque(maxlen=RELEASES_KEPT)

    def released(self, now_s: float, held_s: float, *, is_awaited: bool) -> None:
        """A slot came free; `is_awaited` when somebody waits for it."""
        self._held_s.append(held_s)
        if is_awaited:
            self._released_at_s.append(now_s)
        else:
            self._released_at_s.clear()

    def per_s(self, now_s: float, in_flight_count: int) -> float | None:
        """Slots that come free in a second; None while nothing is known."""
        if len(self._released_at_s) >= RELEASES_TRUSTED:
            span_s = now_s - self._released_at_s[0]
            if span_s > 0:
                return (len(self._released_at_s) - 1) / span_s
        held_s = sum(self._held_s)
        if not held_s or not in_flight_count:
            return None
        return in_flight_count * len(self._held_s) / held_s

    def wait_s(self, position: int, now_s: float, in_flight_count: int) -> float | None:
        """Until the request in that place gets its slot, as far as can be told."""
        per_s = self.per_s(now_s, in_flight_count)
        return None if per_s is None else position / per_s
