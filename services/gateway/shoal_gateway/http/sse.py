"""Server-sent events on a connection: headers, and silence that is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # Tells proxies such as nginx not to collect the stream first.
    "X-Accel-Buffering": "no",
}


class Silence:
    """How long nothing was said. Saying something costs a look at the clock and no timer."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._time = asyncio.get_running_loop().time
        self._broken_at = self._time()

    @property
    def left_s(self) -> float:
        """Until it has lasted for the interval; 0 or less when it has."""
        return self._broken_at + self._interval_s - self._time()

    def broken(self) -> None:
        """Something was said just now."""
        self._broken_at = self._time()

    @asynccontextmanager
    async def answered(self, speak: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """While the context is open, `speak` is called whenever the silence has lasted.

        A ConnectionError of `speak` ends that: whoever listens is gone. Other errors of it are
        raised at the context's end.
        """
        loop = asyncio.get_running_loop()
        task: asyncio.Task[None] | None = None
        timer: asyncio.TimerHandle

        def look() -> None:
            """Few streams are ever silent: only those get a task."""
            nonlocal task, timer
            if self.left_s > 0:
                timer = loop.call_later(self.left_s, look)
            else:
                task = loop.create_task(self._watch(speak))

        timer = loop.call_later(self.left_s, look)
        try:
            yield
        finally:
            timer.cancel()
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if task is not None and not task.cancelled():
            task.result()

    async def _watch(self, speak: Callable[[], Awaitable[None]]) -> None:
        try:
            while True:
                await asyncio.sleep(self.left_s)
                if self.left_s <= 0:
                    await speak()
                    self.broken()
        except ConnectionError:
            return
