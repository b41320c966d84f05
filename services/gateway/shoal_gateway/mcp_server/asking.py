"""Questions to models: one, or many at once of which none can fail the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_gateway.answers import Answers
from shoal_gateway.collect import Collected, collect
from shoal_gateway.metrics import Metrics, observed
from shoal_gateway.task import (
    ChatTask,
    Event,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

log = logging.getLogger(__name__)

# Called with the number of pieces that are done.
Report = Callable[[int], Awaitable[None]]
# Pieces of text between two reports of one answer.
PIECES_PER_REPORT = 16
INTERNAL_ERROR_TEXT = "an internal error; the gateway's log has the details"


@dataclass(frozen=True)
class Outcome:
    """One question's answer, or its `error`."""

    model: str
    latency_ms: int
    said: Collected | None = None
    error: str = ""

    @property
    def is_ok(self) -> bool:
        return self.said is not None

    @property
    def text(self) -> str:
        return self.said.text if self.said is not None else ""

    @property
    def usage(self) -> Usage:
        return self.said.finished.usage if self.said is not None else Usage(0, 0)


@dataclass(frozen=True)
class Asker:
    """Asks the same backends, under the same metrics, as every other dialect."""

    answers: Answers
    metrics: Metrics
    clock: Clock
    concurrency: int

    async def ask(self, request_id: str, task: ChatTask, report: Report | None = None) -> Outcome:
        """One answer in whole; `report` hears of its pieces. Raises ShoalError."""
        started_at = self.clock.monotonic()
        answer = await self.answers.open(request_id, replace(task, is_streamed=False))
        events = observed(answer.events(), self.metrics, self.clock)
        said = await collect(events if report is None else _reported(events, report))
        return Outcome(answer.model, self._since_ms(started_at), said)

    async def ask_all(
        self, request_id: str, tasks: Sequence[ChatTask], report: Report
    ) -> list[Outcome]:
        """All answers in order, `concurrency` at once; `report` hears of each that ends."""
        places = asyncio.Semaphore(self.concurrency)
        done_count = 0

        async def one(index: int, task: ChatTask) -> Outcome:
            nonlocal done_count
            async with places:
                outcome = await self._guarded(f"{request_id}-{index}", task)
            done_count += 1
            await report(done_count)
            return outcome

        async with asyncio.TaskGroup() as group:
            running = [group.create_task(one(index, task)) for index, task in enumerate(tasks)]
        return [task.result() for task in running]

    async def _guarded(self, request_id: str, task: ChatTask) -> Outcome:
        started_at = self.clock.monotonic()
        try:
            return await self.ask(request_id, task)
        except ShoalError as err:
            error = str(err)
        # The outermost loop of one question: a fault in it is not the others'.
        except Exception:
            log.exception("question failed", extra={"request_id": request_id})
            error = INTERNAL_ERROR_TEXT
        return Outcome(task.model, self._since_ms(started_at), error=error)

    def _since_ms(self, started_at: float) -> int:
        return round((self.clock.monotonic() - started_at) * 1000)


async def _reported(
    events: AsyncGenerator[Event, None], report: Report
) -> AsyncGenerator[Event, None]:
    count = 0
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
                count += 1
                if count % PIECES_PER_REPORT == 0:
                    await report(count)
            yield event
