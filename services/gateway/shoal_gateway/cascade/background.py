"""Small work behind an answer that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from shoal_common.errors import ShoalError

log = logging.getLogger(__name__)


class Background:
    """At most `task_count_max` at once; what comes beyond is dropped."""

    def __init__(self, task_count_max: int) -> None:
        self._task_count_max = task_count_max
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def task_count(self) -> int:
        return len(self._tasks)

    def add(self, what: str, work: Coroutine[Any, Any, object]) -> bool:
        """Whether there was room. `what` names the work in the log, should it fail."""
        if len(self._tasks) >= self._task_count_max:
            work.close()
            return False
        task = asyncio.create_task(_done(what, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def drain(self, timeout_s: float) -> None:
        """Let what runs end for so long, and cancel the rest."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _done(what: str, work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except ShoalError as err:
        log.info("background work failed", extra={"work": what, "reason": err.reason})
    # The outermost loop of one piece of work.
    except Exception:
        log.exception("background work broke", extra={"work": what})
