"""Owns: which pipeline a session went to last, in memory, and a copy that outlives this process.

Requests are answered from memory alone. The copy is written behind them and read once, at start:
without it sessions lose their affinity at a restart, and nothing else. Does not know: Redis.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

from shoal_common.clock import Clock

log = logging.getLogger(__name__)

WRITES_PER_CALL_MAX = 512
RETRY_S = 5.0


class StoreAway(Exception):
    """The copy cannot be reached now."""


class SessionStore(Protocol):
    """A copy of sessions with a time to live, that others may lose."""

    async def read(self, count_max: int) -> Mapping[str, str]:
        """Up to so many sessions. Raises StoreAway."""
        ...

    async def write(self, sessions: Mapping[str, str], ttl_s: float) -> None:
        """Raises StoreAway, with any part of them written."""
        ...

    async def close(self) -> None: ...


class NoStore:
    """For a router without Redis."""

    async def read(self, count_max: int) -> Mapping[str, str]:
        return {}

    async def write(self, sessions: Mapping[str, str], ttl_s: float) -> None:
        return

    async def close(self) -> None:
        return


def session_key(tenant: str, model: str, session_id: str) -> str:
    """Stands for a session without telling its name; tenants never meet in one."""
    parts = (part.encode() for part in (tenant, model, session_id))
    framed = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return hashlib.blake2b(framed, digest_size=16).hexdigest()


class Sessions:
    """Invariants: at most `count_max` sessions, none older than `ttl_s`; nobody waits for the
    copy."""

    def __init__(self, clock: Clock, store: SessionStore, *, ttl_s: float, count_max: int) -> None:
        self._clock = clock
        self._store = store
        self._ttl_s = ttl_s
        self._count_max = count_max
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()
        """By key, the pipeline's id and until when it holds; the next to end first."""
        self._unwritten: OrderedDict[str, str] = OrderedDict()
        self._is_wanted = asyncio.Event()

    def __len__(self) -> int:
        return len(self._known)

    def pipeline_id(self, key: str) -> str | None:
        found = self._known.get(key)
        if found is None or found[1] <= self._clock.monotonic():
            return None
        return found[0]

    def went(self, key: str, pipeline_id: str) -> None:
        """A request of the session goes there now."""
        self._remember(key, pipeline_id)
        self._unwritten[key] = pipeline_id
        self._unwritten.move_to_end(key)
        while len(self._unwritten) > self._count_max:
            self._unwritten.popitem(last=False)
        self._is_wanted.set()

    async def keep_copy(self) -> None:
        """Reads the copy once, then writes behind. Runs until it is cancelled."""
        await self._read()
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            while self._unwritten:
                count = min(WRITES_PER_CALL_MAX, len(self._unwritten))
                some = dict(self._unwritten.popitem(last=False) for _ in range(count))
                try:
                    await self._store.write(some, self._ttl_s)
                except StoreAway as err:
                    log.warning("sessions not copied", extra={"detail": str(err)})
                    self._unwritten = OrderedDict({**some, **self._unwritten})
                    await self._clock.sleep(RETRY_S)

    async def _read(self) -> None:
        try:
            found = await self._store.read(self._count_max)
        except StoreAway as err:
            log.warning("sessions of before not read", extra={"detail": str(err)})
            return
        for key, pipeline_id in found.items():
            if key not in self._known:
                self._remember(key, pipeline_id)
        log.info("sessions read", extra={"count": len(found)})

    def _remember(self, key: str, pipeline_id: str) -> None:
        now_s = self._clock.monotonic()
        self._known[key] = (pipeline_id, now_s + self._ttl_s)
        self._known.move_to_end(key)
        while len(self._known) > self._count_max or (
            self._known and next(iter(self._known.values()))[1] <= now_s
        ):
            self._known.popitem(last=False)
