"""How sources have behaved: who is penalised, who asked to wait, who is busy with us.

Owns that memory for all downloads. A penalty doubles with each offence and fades by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from shoal_common.clock import Clock

PENALTY_S = 60.0
PENALTY_S_MAX = 3600.0


class Named(Protocol):
    """Anything with a name of its own."""

    @property
    def name(self) -> str: ...


S = TypeVar("S", bound=Named)


class Standings:
    """Per source by name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offences: Counter[str] = Counter()
        self._penalised_until_s: dict[str, float] = {}
        self._busy_until_s: dict[str, float] = {}
        self._open: Counter[str] = Counter()

    def best(self, candidates: Sequence[S]) -> S | None:
        """Who to ask: not penalised, soonest willing, least busy with us; in doubt the first."""
        now_s = self._clock.monotonic()
        return min(
            candidates,
            key=lambda each: (
                self._penalised_until_s.get(each.name, 0.0) > now_s,
                self.wait_s(each.name),
                self._open[each.name],
            ),
            default=None,
        )

    def wait_s(self, name: str) -> float:
        """Seconds for which a source does not want to be asked."""
        return max(0.0, self._busy_until_s.get(name, 0.0) - self._clock.monotonic())

    def is_penalised(self, name: str) -> bool:
        return self._penalised_until_s.get(name, 0.0) > self._clock.monotonic()

    def penalise(self, name: str) -> float:
        """It sent bytes that are wrong; returns the seconds for which it comes last."""
        self._offences[name] += 1
        penalty_s: float = min(PENALTY_S * 2 ** (self._offences[name] - 1), PENALTY_S_MAX)
        self._penalised_until_s[name] = self._clock.monotonic() + penalty_s
        return penalty_s

    def postpone(self, name: str, wait_s: float) -> None:
        """It asked to be left alone, or just failed."""
        until_s: float = self._clock.monotonic() + wait_s
        self._busy_until_s[name] = max(until_s, self._busy_until_s.get(name, 0.0))

    @contextmanager
    def asking(self, name: str) -> Iterator[None]:
        """Counts a transfer while it runs."""
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]
