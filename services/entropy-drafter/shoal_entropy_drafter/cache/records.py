"""Answers with their questions, in Redis: found by id, forgotten by tenant and model.

    <prefix>record:<id>         JSON of a Record; lives as long as the answer is kept
    <prefix>ends                sorted set of ids by the second in which they expire
    <prefix>group:<digest>      the same, of one tenant and model
    <prefix>groups              digest of every such group -> JSON [tenant, model]

An id follows from the question, so that the same question asked again leads to the record without
an index, and a newer answer takes the place of the older. The sets may hold ids whose record is
gone already, never the other way round. Does not know vectors.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from blake3 import blake3
from redis import asyncio as redis
from redis.exceptions import RedisError

from shoal_common.clock import Clock
from shoal_entropy_drafter.cache.base import KeptAnswer
from shoal_entropy_drafter.errors import CacheStoreAway
from shoal_entropy_drafter.question import Question

# Records that are let go of with one command.
_LET_GO_COUNT = 512


@dataclass(frozen=True)
class Record:
    """An answer, the question it was given to, and its time: whole seconds since 1970."""

    scope: str
    exact_key: str
    tenant: str
    model: str
    question: str = field(repr=False)
    text: str = field(repr=False)
    answered_by: str
    prompt_token_count: int
    completion_token_count: int
    created_at: int
    expires_at: int

    def answer(self) -> KeptAnswer:
        return KeptAnswer(
            self.text, self.answered_by, self.prompt_token_count, self.completion_token_count
        )

    def may_answer(self, question: Question) -> bool:
        """It was given within the scope in which that is asked."""
        own = (self.scope, self.tenant, self.model)
        return own == (question.scope, question.tenant, question.model)


def record_of(question: Question, answer: KeptAnswer, created_at: int, ttl_s: int) -> Record:
    """What is kept of them from `created_at` on."""
    return Record(
        question.scope,
        question.exact_key,
        question.tenant,
        question.model,
        question.text,
        answer.text,
        answer.answered_by,
        answer.prompt_token_count,
        answer.completion_token_count,
        created_at,
        created_at + ttl_s,
    )


def id_of(question: Question) -> str:
    """A UUID: the same for the same question in the same scope, and for no other."""
    digest = blake3(f"{question.scope}/{question.exact_key}".encode()).digest(length=16)
    return str(uuid.UUID(bytes=digest))


class Records:
    """Records under `prefix`, at most `entries_max`. Calls raise CacheStoreAway.

    The client is the caller's to close.
    """

    def __init__(self, client: redis.Redis, prefix: str, entries_max: int, clock: Clock) -> None:
        self._client = client
        self._prefix = prefix
        self._entries_max = entries_max
        self._clock = clock
        self._ends = f"{prefix}ends"
        self._groups = f"{prefix}groups"

    async def read(self, ids: Sequence[str]) -> list[Record | None]:
        """The records in the order of the ids; None for each that is gone or has expired."""
        if not ids:
            return []
        found = await self._told(self._client.mget([self._key(one) for one in ids]))
        return [self._alive(data) for data in found]

    async def write(self, one: str, record: Record) -> list[str]:
        """Keep it, in place of an older one. Gives the ids that had to leave for it."""
        ttl_s = record.expires_at - int(self._clock.time())
        if ttl_s <= 0:
            return []
        digest = _group(record.tenant, record.model)
        named = orjson.dumps([record.tenant, record.model])
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.set(self._key(one), orjson.dumps(asdict(record)), ex=ttl_s)
            pipe.zadd(self._ends, {one: record.expires_at})
            pipe.zadd(self._group_key(digest), {one: record.expires_at})
            pipe.hset(self._groups, digest, named)
            pipe.zcard(self._ends)
            *_, count = await self._told(pipe.execute())
        return await self._make_room(count - self._entries_max) if count > self._entries_max else []

    async def delete(self, ids: Sequence[str]) -> int:
        """Let go of records; says how many there were."""
        count = 0
        for start in range(0, len(ids), _LET_GO_COUNT):
            some = ids[start : start + _LET_GO_COUNT]
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.unlink(*[self._key(one) for one in some])
                pipe.zrem(self._ends, *some)
                gone, _ = await self._told(pipe.execute())
            count += gone
        return count

    async def forget(self, tenant: str, model: str) -> int:
        """Let go of that tenant's and model's records, "" for any; says how many there were."""
        count = 0
        for digest, of_tenant, of_model in await self._all_groups():
            if (tenant and tenant != of_tenant) or (model and model != of_model):
                continue
            key = self._group_key(digest)
            members = await self._told(self._client.zrange(key, 0, -1))
            ids = [member.decode() for member in members]
            count += await self.delete(ids)
            # Not the whole set: what came in meanwhile was not meant, and must be found again.
            await self._remove(key, ids)
        return count

    async def sweep(self) -> None:
        """Drop ids of expired records from the sets, and groups that are empty."""
        now = int(self._clock.time())
        await self._told(self._client.zremrangebyscore(self._ends, "-inf", now))
        for digest, _, _ in await self._all_groups():
            key = self._group_key(digest)
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.zremrangebyscore(key, "-inf", now)
                pipe.zcard(key)
                _, count = await self._told(pipe.execute())
            if not count:
                await self._told(self._client.hdel(self._groups, digest))

    async def count(self) -> int:
        """Answers that are kept now."""
        now = int(self._clock.time())
        return int(await self._told(self._client.zcount(self._ends, f"({now}", "+inf")))

    async def oldest_age_s(self) -> int:
        """Age of the one that leaves first; 0 without any."""
        now = int(self._clock.time())
        first = await self._told(
            self._client.zrange(self._ends, f"({now}", "+inf", byscore=True, offset=0, num=1)
        )
        records = await self.read([member.decode() for member in first])
        return max((now - record.created_at for record in records if record), default=0)

    async def _make_room(self, count: int) -> list[str]:
        leaving = await self._told(self._client.zpopmin(self._ends, count))
        ids = [member.decode() for member, _ in leaving]
        await self.delete(ids)
        return ids

    async def _remove(self, key: str, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), _LET_GO_COUNT):
            await self._told(self._client.zrem(key, *ids[start : start + _LET_GO_COUNT]))

    async def _all_groups(self) -> list[tuple[str, str, str]]:
        """Digest, tenant and model of each."""
        found = await self._told(self._client.hgetall(self._groups))
        try:
            return [(digest.decode(), *orjson.loads(named)) for digest, named in found.items()]
        except ValueError as err:
            raise CacheStoreAway("redis", "its groups cannot be read") from err

    def _alive(self, data: bytes | None) -> Record | None:
        if data is None:
            return None
        try:
            record = Record(**orjson.loads(data))
        except (ValueError, TypeError):
            # Of another version of this service: as good as gone.
            return None
        return record if record.expires_at > self._clock.time() else None

    def _key(self, one: str) -> str:
        return f"{self._prefix}record:{one}"

    def _group_key(self, digest: str) -> str:
        return f"{self._prefix}group:{digest}"

    async def _told(self, answer: Awaitable[Any]) -> Any:
        """What Redis says; its stubs leave open whether as bytes or text: `connect` gives bytes."""
        try:
            return await answer
        except (RedisError, OSError) as err:
            raise CacheStoreAway("redis", type(err).__name__) from err


def _group(tenant: str, model: str) -> str:
    return blake3(orjson.dumps([tenant, model])).hexdigest(length=16)
