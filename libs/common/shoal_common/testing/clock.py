"""Virtual time."""

from __future__ import annotations

import asyncio
import heapq
import itertools

# Turns of the loop given to whoever a passing moment woke, before the next moment comes.
_SETTLE_TURNS = 20


class FakeClock:
    """A Clock that stands still until `advance`. For one event loop."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self._start_s = now_s
        self._now_s = now_s
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self._now_s

    def time(self) -> float:
        return 1_700_000_000.0 + self._now_s - self._start_s

    @property
    def sleeper_count(self) -> int:
        """Tasks that wait for time to pass."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def sleep(self, delay_s: float) -> None:
        """Wait until time has advanced by `delay_s`; a delay of 0 or less only yields."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + delay_s, next(self._order), future))
        await future

    async def advance(self, delay_s: float) -> None:
        """Let `delay_s` seconds pass, waking sleepers in the order of their moments.

        Each sees the moment it asked for as the present, and may go to sleep again within the
        span.
        """
        assert delay_s >= 0, "time does not run backwards"
        end_s = self._now_s + delay_s
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            moment_s, _, future = heapq.heappop(self._sleepers)
            if future.done():  # its sleeper was cancelled
                continue
            self._now_s = moment_s
            future.set_result(None)
            await settle()
        self._now_s = end_s
        await settle()

    def jump(self, delay_s: float) -> None:
        """Let `delay_s` seconds pass at once, for code that reads the clock and never waits."""
        assert delay_s >= 0, "time does not run backwards"
        assert not self.sleeper_count, "somebody waits: use advance"
        self._now_s += delay_s


async def settle() -> None:
    """Let tasks that can run do so until they wait again; short chains only."""
    for _ in range(_SETTLE_TURNS):
        await asyncio.sleep(0)
