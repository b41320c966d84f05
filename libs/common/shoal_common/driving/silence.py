"""How long a stream of answers may be silent.

Owns the counting and the cancelling of the call. Does not know what is said on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOKS = 4


class Silence:
    """Cancels a call on which nothing comes for too long.

    Two bounds: `alive_s` for a sign of life, `idle_s` for something that carries a reply on. Only
    waiting counts, and it is counted in looks at it: seconds in which this very process stood
    still, or its reader had no use for more, are nobody's silence. A bound is kept to a quarter.

    is_waiting: set by the reader around each read. exceeded_s: the bound that was passed, if any.
    """

    def __init__(self, cancel: Callable[[], object], alive_s: float, idle_s: float) -> None:
        self.is_waiting = False
        self.exceeded_s: float | None = None
        self._cancel = cancel
        self._interval_s = min(alive_s, idle_s) / _LOOKS
        self._bounds_s = (alive_s, idle_s)
        self._alive_looks = 0
        self._idle_looks = 0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._interval_s, self._look)

    def heard(self, *, carries_on: bool) -> None:
        """Something has come."""
        self.is_waiting = False
        self._alive_looks = 0
        if carries_on:
            self._idle_looks = 0

    def close(self) -> None:
        """Look no more. Idempotent."""
        self._timer.cancel()

    def _look(self) -> None:
        self._alive_looks += self.is_waiting
        self._idle_looks += self.is_waiting
        looks = (self._alive_looks, self._idle_looks)
        for count, bound_s in zip(looks, self._bounds_s, strict=True):
            # One less: the wait began somewhere between two looks.
            if (count - 1) * self._interval_s >= bound_s:
                self.exceeded_s = bound_s
                self._cancel()
                return
        self._timer = self._loop.call_later(self._interval_s, self._look)
