"""Who asks: the house's key, or a named one that the database knows.

Owns the list of scopes and which path needs which. Does not know rates or budgets.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from shoal_common.clock import Clock
from shoal_common.errors import Unauthenticated
from shoal_gateway.access.key_store import KeyRecord, KeyStore, digest_of, looks_like_a_key
from shoal_gateway.auth import HouseKey, shown_keys
from shoal_gateway.database import in_time
from shoal_gateway.errors import ScopeMissing

SCOPES = ("chat", "embeddings", "models", "mcp", "observe", "admin")
"""chat: every route that makes a model answer. observe: /relay. admin: /api/admin, and all else."""
DEFAULT_SCOPES = ("chat", "embeddings", "models", "mcp")
HOUSE_KEY_ID = "house"

# A revoked key stops within this time on every replica, with or without Redis.
KEY_FRESH_S = 1.0
_KNOWN_KEYS_MAX = 10_000
_LAST_USED_STEP_S = 60.0

# First match wins; a path that stands nowhere needs any valid key.
_SCOPES_BY_PREFIX = (
    ("/v1/models", frozenset({"models", "chat"})),
    ("/v1/status", frozenset({"models", "chat"})),
    ("/v1/providers", frozenset({"models", "chat"})),
    ("/v1/embeddings", frozenset({"embeddings"})),
    ("/v1", frozenset({"chat"})),
    ("/mcp", frozenset({"mcp"})),
    ("/api", frozenset({"admin"})),
    ("/relay", frozenset({"observe"})),
)


@dataclass(frozen=True)
class Caller:
    """Whoever showed a valid key. `tenant` separates prefix caches and counts tokens."""

    key_id: str
    name: str
    tenant: str
    scopes: frozenset[str]
    is_admin: bool
    # None is unlimited.
    monthly_token_budget: int | None = None

    @property
    def is_house(self) -> bool:
        return self.key_id == HOUSE_KEY_ID


HOUSE = Caller(HOUSE_KEY_ID, HOUSE_KEY_ID, "", frozenset(SCOPES), is_admin=True)


def is_below(path: str, prefix: str) -> bool:
    """Whether `path` is `prefix` or lies under it."""
    return path == prefix or path.startswith(f"{prefix}/")


@lru_cache(maxsize=1024)
def scopes_for(path: str) -> frozenset[str]:
    """Scopes of which one is enough; empty where any valid key may come."""
    for prefix, scopes in _SCOPES_BY_PREFIX:
        if is_below(path, prefix):
            return scopes
    return frozenset()


def require_scope(caller: Caller, path: str) -> None:
    """Raises ScopeMissing."""
    wanted = scopes_for(path)
    if wanted and not caller.is_admin and not wanted & caller.scopes:
        raise ScopeMissing(caller.name, sorted(wanted))


class Callers:
    """Answers who shows a key. Named keys are read again after `KEY_FRESH_S`.

    While the database is away named keys are refused with 503 and only the house's key works: a
    key that was revoked elsewhere must not live on here.
    """

    def __init__(self, house: HouseKey, store: KeyStore, clock: Clock) -> None:
        self._house = house
        self._store = store
        self._clock = clock
        # Digest to record and the moment it was read; the least recently used goes first.
        self._known: OrderedDict[str, tuple[KeyRecord, float]] = OrderedDict()
        # One question for each key, however many requests wait for its answer.
        self._reading: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._last_used: dict[str, float] = {}

    async def identify(self, headers: Mapping[str, str], may_look_up: bool = True) -> Caller:
        """Raises Unauthenticated, DatabaseUnreachable.

        may_look_up: False spares the database keys that were never valid here.
        """
        shown = shown_keys(headers)
        if not shown:
            raise Unauthenticated(
                "no API key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        if self._house.matches(shown):
            return HOUSE
        for value in shown:
            record = await self._find(value, may_look_up)
            if record is not None:
                self._note_use(record)
                return _caller(record)
        raise Unauthenticated("the API key is wrong or was revoked")

    def forget(self) -> None:
        """Read every key again: one was changed through this replica."""
        self._known.clear()

    async def flush(self) -> None:
        """Write down when keys were last used. Raises DatabaseUnreachable."""
        moments, self._last_used = self._last_used, {}
        if moments:
            await self._store.touch(moments)

    async def _find(self, value: str, may_look_up: bool) -> KeyRecord | None:
        if not looks_like_a_key(value):
            return None
        digest = digest_of(value)
        known = self._known.get(digest)
        now = self._clock.monotonic()
        if known is not None and now - known[1] < KEY_FRESH_S:
            self._known.move_to_end(digest)
            return known[0]
        if known is None and not may_look_up:
            return None
        reading = self._reading.get(digest)
        if reading is None:
            reading = self._reading[digest] = asyncio.create_task(self._read(digest, now))
            reading.add_done_callback(lambda task: self._end_reading(digest, task))
        # Who leaves does not take the answer from those who wait for it too.
        return await in_time(asyncio.shield(reading))

    async def _read(self, digest: str, now: float) -> KeyRecord | None:
        """From the database; a key that is in use is as old as the question."""
        record = await self._store.find(digest)
        if record is None:
            self._known.pop(digest, None)
            return None
        self._known[digest] = (record, now)
        if len(self._known) > _KNOWN_KEYS_MAX:
            self._known.popitem(last=False)
        return record

    def _end_reading(self, digest: str, task: asyncio.Task[KeyRecord | None]) -> None:
        self._reading.pop(digest, None)
        if not task.cancelled():
            # Seen here too, in case everyone who waited for it has left.
            task.exception()

    def _note_use(self, record: KeyRecord) -> None:
        now = self._clock.time()
        if now - (record.last_used_at or 0.0) >= _LAST_USED_STEP_S:
            self._last_used[record.key_id] = now


def _caller(record: KeyRecord) -> Caller:
    return Caller(
        key_id=record.key_id,
        name=record.name,
        tenant=record.tenant,
        scopes=frozenset(record.scopes),
        is_admin="admin" in record.scopes,
        monthly_token_budget=record.monthly_token_budget,
    )
