"""Requests per minute, as token buckets: shared by replicas in Redis, or else each its own.

A bucket holds a minute's worth, so a burst of `limit` passes at once and then one request every
`60 / limit` seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from redis import asyncio as redis
from redis.exceptions import RedisError

from shoal_common.clock import Clock
from shoal_gateway.errors import RateLimited

log = logging.getLogger(__name__)

WINDOW_S = 60.0
# A limit is worth less than a client's patience: a slow Redis counts as an absent one.
ANSWER_TIMEOUT_S = 0.25
# After a failure nobody asks Redis for this long.
CIRCUIT_OPEN_S = 1.0
LEASE_S = 1.0
_BUCKETS_MAX = 20_000

# Redis's own clock, so that replicas with different ones agree.
_TAKE = """
local limit, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(bucket[1]) or limit
local at = math.min(tonumber(bucket[2]) or now, now)
tokens = math.min(limit, tokens + (now - at) * limit / 60000)
local taken = math.min(wanted, math.floor(tokens))
tokens = tokens - taken
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', now)
redis.call('PEXPIRE', KEYS[1], 60000)
return {taken, tostring(tokens)}
"""


@dataclass(frozen=True)
class Draw:
    """One attempt to take a token, and what is left in the bucket after it."""

    is_taken: bool
    tokens: float


@dataclass(frozen=True)
class Allowance:
    """What a caller may still do. `retry_after_s` is 0 unless this request was one too many."""

    limit: int
    remaining: int
    reset_s: float
    retry_after_s: float = 0.0

    @classmethod
    def of(cls, draw: Draw, limit: int) -> Allowance:
        refill_s = WINDOW_S / limit
        return cls(
            limit=limit,
            remaining=int(draw.tokens),
            reset_s=(limit - draw.tokens) * refill_s,
            retry_after_s=0.0 if draw.is_taken else max(0.001, (1 - draw.tokens) * refill_s),
        )

    def refusal(self) -> RateLimited:
        return RateLimited(self.limit, self.retry_after_s, self.reset_s)


class Buckets(Protocol):
    """Token buckets by name; one that was never seen is full."""

    async def take(self, name: str, limit: int) -> Draw: ...


class LocalBuckets:
    """In this process. The least recently used bucket is forgotten when there are too many."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def take(self, name: str, limit: int) -> Draw:
        tokens = self.peek(name, limit)
        is_taken = tokens >= 1
        if is_taken:
            tokens -= 1
        self._buckets[name] = (tokens, self._clock.monotonic())
        self._buckets.move_to_end(name)
        if len(self._buckets) > _BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return Draw(is_taken, tokens)

    def peek(self, name: str, limit: int) -> float:
        """The tokens in a bucket now."""
        tokens, at = self._buckets.get(name, (float(limit), 0.0))
        elapsed_s = self._clock.monotonic() - at
        return min(float(limit), tokens + elapsed_s * limit / WINDOW_S)


class SharedBuckets:
    """In Redis, one script, atomic for all replicas. Raises RedisError, OSError.

    A question to Redis costs more than all other checks together, so where the limit is high a
    second's worth of tokens is fetched at once and given out here: never more than the limit in
    all, at worst a second's worth unused in a replica. Up to 119 a minute that is one token.
    """

    def __init__(self, client: redis.Redis, clock: Clock) -> None:
        self._script = client.register_script(_TAKE)
        self._clock = clock
        # Tokens fetched and not yet given out, those in Redis then, and until when they are ours.
        self._leases: OrderedDict[str, tuple[int, float, float]] = OrderedDict()
        self._fetching: set[str] = set()

    async def take(self, name: str, limit: int) -> Draw:
        leased, tokens, ends_at = self._leases.pop(name, (0, 0.0, 0.0))
        if not leased or self._clock.monotonic() >= ends_at:
            leased, tokens = await self._fetch(name, limit)
            ends_at = self._clock.monotonic() + LEASE_S
        if not leased:
            return Draw(False, tokens)
        if leased > 1:
            self._leases[name] = (leased - 1, tokens, ends_at)
            if len(self._leases) > _BUCKETS_MAX:
                self._leases.popitem(last=False)
        return Draw(True, tokens + leased - 1)

    async def _fetch(self, name: str, limit: int) -> tuple[int, float]:
        """Tokens to give out, and those left in Redis. In a crowd one fetches for later."""
        is_first = name not in self._fetching
        wanted = max(1, limit // int(WINDOW_S)) if is_first else 1
        self._fetching.add(name)
        try:
            taken, tokens = await self._script(keys=[f"shoal:rate:{name}"], args=[limit, wanted])
        finally:
            if is_first:
                self._fetching.discard(name)
        return int(taken), float(tokens)


class FallbackBuckets:
    """`shared` while it answers, `local` while it does not.

    Replicas that lose Redis each grant a bucket of their own: too generous for a while, never
    closed.
    """

    def __init__(self, shared: Buckets, local: Buckets, clock: Clock) -> None:
        self._shared = shared
        self._local = local
        self._clock = clock
        self._closed_until = float("-inf")
        self._is_away = False

    async def take(self, name: str, limit: int) -> Draw:
        if self._clock.monotonic() < self._closed_until:
            return await self._local.take(name, limit)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                draw = await self._shared.take(name, limit)
        except (RedisError, OSError, TimeoutError) as err:
            self._closed_until = self._clock.monotonic() + CIRCUIT_OPEN_S
            if not self._is_away:
                log.warning("rate limits became local", extra={"error": type(err).__name__})
            self._is_away = True
            return await self._local.take(name, limit)
        if self._is_away:
            log.info("rate limits are shared again")
        self._is_away = False
        return draw


def make_buckets(client: redis.Redis | None, clock: Clock) -> Buckets:
    """Shared ones where there is a Redis."""
    local = LocalBuckets(clock)
    return local if client is None else FallbackBuckets(SharedBuckets(client, clock), local, clock)
