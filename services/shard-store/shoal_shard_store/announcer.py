"""Tells the fleet what is here: every few seconds, and at once on change.

Owns the connection to the bus. Workers' side hears of every model that can be loaded from here;
other stores hear what this one holds, and it hears them. Without the bus it tries again for ever,
and nothing else of the service notices.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from blake3 import blake3
from prometheus_client import Counter

from shoal.shard_store.v1.beat_pb2 import StoreBeat
from shoal_common.bus import Bus
from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_shard_store.adopt import Told, adopt, drafts_to_ask_for
from shoal_shard_store.catalog import Catalog
from shoal_shard_store.holdings import Held, Shelf, loadable
from shoal_shard_store.neighbours import SUBJECT, Neighbours

log = logging.getLogger(__name__)

_SUBJECT_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_RETRY_S = 1.0


def subject_of(model: str) -> str:
    """Where a model is announced: by its name, or by a digest where NATS could not carry it."""
    is_safe = _SUBJECT_SAFE.issuperset(model)
    return f"shoal.model.{model if is_safe else blake3(model.encode()).hexdigest(8)}.announce"


class Announcer:
    """Publishes what the shelf holds until it is cancelled."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Bus]],
        shelf: Shelf,
        catalog: Catalog,
        neighbours: Neighbours,
        about: Callable[[], StoreBeat],
        clock: Clock,
        interval_s: float,
        count: Counter,
    ) -> None:
        """about: this store's beat without its holdings."""
        self._connect = connect
        self._shelf = shelf
        self._catalog = catalog
        self._neighbours = neighbours
        self._about = about
        self._clock = clock
        self._interval_s = interval_s
        self._count = count
        self._changed = asyncio.Event()
        self._asked: dict[str, Told] = {}

    def announce_now(self) -> None:
        """A model came or changed: nobody should learn it seconds later."""
        self._changed.set()

    async def run(self) -> None:
        """Announce until cancelled."""
        bus = await self._connected()
        try:
            await bus.subscribe(SUBJECT, self._neighbours.on_beat)
            while True:
                self._changed.clear()
                await self._announce(bus)
                await self._pause(self._interval_s)
        finally:
            await self._leave(bus)
            await bus.close()

    async def _connected(self) -> Bus:
        failed_count = 0
        while True:
            try:
                return await self._connect()
            except ShoalError as err:
                failed_count += 1
                if failed_count == 1:  # It may stay away for hours.
                    log.warning("bus unreachable", extra={"detail": str(err)})
            await self._clock.sleep(_RETRY_S)

    async def _announce(self, bus: Bus) -> None:
        try:
            held = await asyncio.to_thread(self._shelf.held)
            for announcement in loadable(held, self._neighbours.beats()):
                payload = announcement.SerializeToString()
                await bus.publish(subject_of(announcement.model), payload)
                self._count.labels("sent").inc()
            beat = self._about()
            beat.holdings.extend(each.message() for each in held)
            await bus.publish(_subject_of_beat(beat), beat.SerializeToString())
            await self._adopt(held)
        except (ShoalError, OSError, ValueError, KeyError, TypeError) as err:
            # A broken manifest or a bus that is away must not end what comes after.
            self._count.labels("failed").inc()
            log.warning("announcing failed", extra={"error": type(err).__name__})

    async def _adopt(self, held: list[Held]) -> None:
        asked, self._asked = self._asked, drafts_to_ask_for(held, self._neighbours.beats())
        for model, told in self._asked.items():
            is_news = asked.get(model) != told
            if is_news and await adopt(model, self._catalog, self._neighbours):
                self._changed.set()

    async def _leave(self, bus: Bus) -> None:
        beat = self._about()
        beat.is_leaving = True
        try:
            async with asyncio.timeout(1):
                await bus.publish(_subject_of_beat(beat), beat.SerializeToString())
        except (ShoalError, TimeoutError):
            log.info("leaving unannounced")

    async def _pause(self, delay_s: float) -> None:
        waits: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._clock.sleep(delay_s)),
            asyncio.create_task(self._changed.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _subject_of_beat(beat: StoreBeat) -> str:
    return f"shoal.store.{beat.store_id}.beat"
