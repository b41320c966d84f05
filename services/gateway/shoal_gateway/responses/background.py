"""Answers that nobody waits for on a connection: their tasks, from start to the stored end.

Each run writes its events to the store as they come. While Redis is away it keeps on answering
and writes what it holds when Redis is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from shoal_common.clock import Clock
from shoal_common.errors import Internal, ShoalError
from shoal_gateway.dialects.responses_output import WireEvent
from shoal_gateway.dialects.responses_render import ResponseBuilder, frame
from shoal_gateway.responses.errors import (
    BackgroundFull,
    GatewayStopping,
    ResponseTooLarge,
    StoreUnreachable,
)
from shoal_gateway.responses.record import Record
from shoal_gateway.responses.store import ResponseStore
from shoal_gateway.task import Event, Finished

log = logging.getLogger(__name__)

# How soon a run that says nothing hears that another gateway was asked to cancel it.
_BEAT_S = 1.0
# How soon a write is tried again after one that found no Redis.
_RETRY_S = 0.5
# How long the end of an answer waits for Redis.
_END_TIMEOUT_S = 60.0
_STOPPING_TIMEOUT_S = 2.0


class BackgroundRuns:
    """At most `count_max` at once; all are owned until `close`."""

    def __init__(
        self, store: ResponseStore, clock: Clock, count_max: int, drain_timeout_s: float
    ) -> None:
        self._store = store
        self._clock = clock
        self._count_max = count_max
        self._drain_timeout_s = drain_timeout_s
        self._runs: dict[str, tuple[_Run, asyncio.Task[None]]] = {}
        # Counted before their record is written, so that the bound holds.
        self._starting_count = 0
        self._is_closed = False

    @property
    def count(self) -> int:
        """Runs that have not ended."""
        return len(self._runs)

    async def start(
        self, builder: ResponseBuilder, record: Record, events: AsyncGenerator[Event, None]
    ) -> None:
        """Store `record` with the builder's first events, and answer it from here on.

        Raises BackgroundFull, StoreUnreachable, and GatewayStopping after `close`.
        """
        if self._is_closed:
            raise GatewayStopping
        if len(self._runs) + self._starting_count >= self._count_max:
            raise BackgroundFull(self._count_max)
        run = _Run(self._store, self._clock, builder, events)
        self._starting_count += 1
        try:
            await run.save(record)
        finally:
            self._starting_count -= 1
        if self._is_closed:
            run.stop(GatewayStopping())
        task = asyncio.create_task(self._drive(run))
        self._runs[record.response_id] = (run, task)
        task.add_done_callback(lambda _: self._runs.pop(record.response_id))

    async def cancel(self, response_id: str) -> bool:
        """End the run now and wait until its end is stored; False where it is not run here."""
        found = self._runs.get(response_id)
        if found is None:
            return False
        run, task = found
        run.stop(None)
        await asyncio.wait((task,))
        return True

    async def close(self) -> None:
        """Let runs end for `drain_timeout_s`; the rest fail, so that nobody waits for them."""
        self._is_closed = True
        tasks = [task for _, task in self._runs.values()]
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._drain_timeout_s)
        for run, _ in self._runs.values():
            run.stop(GatewayStopping())
        if late:
            _, late = await asyncio.wait(late, timeout=2 * _STOPPING_TIMEOUT_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _drive(self, run: _Run) -> None:
        """The outermost loop of a run."""
        try:
            await run.drive()
        except StoreUnreachable:
            log.warning("background response lost", extra={"response_id": run.response_id})
        except Exception:
            log.exception("background response failed", extra={"response_id": run.response_id})


class _Run:
    """One answer, from its record to its stored end."""

    def __init__(
        self,
        store: ResponseStore,
        clock: Clock,
        builder: ResponseBuilder,
        events: AsyncGenerator[Event, None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._builder = builder
        self._events = events
        # All of the answer, as a Redis that crashed may forget what it took.
        self._events_made: list[tuple[int, bytes]] = []
        self._stored_count = 0
        self._size_bytes = 0
        self._status = ""
        self._retry_at = 0.0
        self._is_stopped = asyncio.Event()
        # None: it was cancelled, and that is no failure.
        self._stopped_by: ShoalError | None = None

    @property
    def response_id(self) -> str:
        return self._builder.response_id

    def stop(self, error: ShoalError | None) -> None:
        """End at once: as failed, or as cancelled without an error. The first call counts."""
        if not self._is_stopped.is_set():
            self._stopped_by = error
            self._is_stopped.set()

    async def save(self, record: Record) -> None:
        """Write the record with its first events. Raises StoreUnreachable, ResponseTooLarge."""
        self._hold(self._builder.begin())
        await self._store.save(record, self._events_made)
        self._status = record.status
        self._stored_count = len(self._events_made)

    async def drive(self) -> None:
        """Answer, and store the end. Raises StoreUnreachable where that cannot be stored."""
        producing = asyncio.create_task(self._produce())
        others = [asyncio.create_task(self._beat()), asyncio.create_task(self._stopped())]
        try:
            await asyncio.wait([producing, *others], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (producing, *others):
                task.cancel()
            await asyncio.gather(producing, *others, return_exceptions=True)
        await self._end(producing)

    async def _produce(self) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                self._hold(self._builder.feed(event))
                if isinstance(event, Finished):
                    return
                await self._write()
        raise Internal("the answer ended without a finish")

    async def _stopped(self) -> None:
        await self._is_stopped.wait()

    async def _beat(self) -> None:
        """Say that somebody answers, and hear whether the answer is still wanted."""
        while True:
            is_waiting = self._clock.monotonic() < self._retry_at
            pause_s = min(_BEAT_S, self._store.limits.alive_s / 4)
            await self._clock.sleep(_RETRY_S if is_waiting else pause_s)
            await self._write(is_due=True)

    def _hold(self, events: list[WireEvent]) -> None:
        for event in events:
            data = frame(event)
            self._size_bytes += len(data)
            self._events_made.append((event["sequence_number"], data))
        if self._size_bytes > self._store.limits.size_bytes_max and not self._builder.is_ended:
            raise ResponseTooLarge(self._size_bytes, self._store.limits.size_bytes_max)

    async def _write(self, is_due: bool = False) -> None:
        """Hand over what is held; without Redis it is held on, and tried again a little later."""
        events = self._events_made[self._stored_count :]
        if not (events or is_due) or self._clock.monotonic() < self._retry_at:
            return
        count = len(self._events_made)
        status = self._builder.status
        moved = "" if status == self._status else status
        response = self._builder.as_object() if moved else None
        try:
            word = await self._store.append(self._builder.response_id, events, moved, response)
        except StoreUnreachable:
            self._retry_at = self._clock.monotonic() + _RETRY_S
            return
        if word == "gap":
            self._stored_count = 0
            return
        self._status = status
        # What both this and the beat have sent, the store takes once.
        self._stored_count = max(self._stored_count, count)
        if word != "going":
            self.stop(None)

    async def _end(self, producing: asyncio.Task[None]) -> None:
        """Close the answer's events and store them, trying for as long as that may help."""
        events: list[WireEvent] = []
        if producing.cancelled():
            by = self._stopped_by
            events = self._builder.cancel() if by is None else self._builder.fail(by)
        elif (error := producing.exception()) is not None:
            if not isinstance(error, ShoalError):
                log.error("background response failed", exc_info=error)
                error = Internal("an internal error; the gateway's log has the details")
            events = self._builder.fail(error)
        self._hold(events)
        await self._write_end()

    async def _write_end(self) -> None:
        ended_at = self._clock.monotonic()
        while True:
            try:
                await self._store.append(
                    self._builder.response_id,
                    self._events_made,
                    self._builder.status,
                    self._builder.as_object(),
                )
            except StoreUnreachable:
                is_stopping = isinstance(self._stopped_by, GatewayStopping)
                patience_s = _STOPPING_TIMEOUT_S if is_stopping else _END_TIMEOUT_S
                if self._clock.monotonic() - ended_at >= patience_s:
                    raise
                await self._clock.sleep(_RETRY_S)
            else:
                return
