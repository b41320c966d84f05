"""Owns: the copy of sessions in Redis: one key each, so that each ends by itself.

Does not know: what a session is, nor what to do while Redis is away.
"""

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from shoal_common.redis_client import connect
from shoal_router.sessions import NoStore, SessionStore, StoreAway

PREFIX = b"shoal:session:"
READ_AT_ONCE = 1000


class RedisSessions:
    """Values are pipeline ids; keys are digests, so that Redis learns nobody's session id."""

    def __init__(self, client: Redis) -> None:
        """client: answers in bytes."""
        self._client = client

    async def read(self, count_max: int) -> Mapping[str, str]:
        found: dict[str, str] = {}
        try:
            cursor = -1
            while cursor != 0 and len(found) < count_max:
                cursor, keys = await self._client.scan(
                    max(cursor, 0), match=PREFIX + b"*", count=READ_AT_ONCE
                )
                values = await self._client.mget(keys) if keys else []
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, bytes) and isinstance(value, bytes):
                        found[key.removeprefix(PREFIX).decode("ascii")] = value.decode("ascii")
        except (RedisError, OSError, UnicodeDecodeError) as err:
            raise StoreAway(f"Redis: {type(err).__name__}") from err
        return found

    async def write(self, sessions: Mapping[str, str], ttl_s: float) -> None:
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for key, pipeline_id in sessions.items():
                    pipe.set(PREFIX + key.encode("ascii"), pipeline_id, px=round(ttl_s * 1000))
                await pipe.execute()
        except (RedisError, OSError) as err:
            raise StoreAway(f"Redis: {type(err).__name__}") from err

    async def close(self) -> None:
        await self._client.aclose()


def session_store(redis_url: str) -> SessionStore:
    """In Redis, or nowhere without a URL."""
    client = connect(redis_url)
    return NoStore() if client is None else RedisSessions(client)
