"""Which responses a provider stores: whose they are, and who has them. In Redis, as our own are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import asyncio as redis
from redis.exceptions import RedisError

from shoal_common import trace
from shoal_gateway.responses.errors import StoreUnreachable

# KEYS: place. Answers 1 to the first who asks while the place is known.
_COUNT = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('HSETNX', KEYS[1], 'is_counted', '1')
"""


@dataclass(frozen=True)
class Place:
    """Where one response lies. `model` is the name that the client asked for.

    is_counted: its usage is in the books; one made in the background tells it only later.
    """

    response_id: str
    tenant: str
    provider: str
    model: str
    is_counted: bool

    def to_fields(self) -> dict[str, str]:
        """As Redis keeps it."""
        fields = {"tenant": self.tenant, "provider": self.provider, "model": self.model}
        return fields | {"is_counted": "1"} if self.is_counted else fields

    @classmethod
    def from_fields(cls, response_id: str, fields: Mapping[bytes, bytes]) -> Place:
        """The reverse of `to_fields`."""
        text = {key.decode(): value.decode() for key, value in fields.items()}
        return cls(
            response_id, text["tenant"], text["provider"], text["model"], "is_counted" in text
        )


class ResponsePlaces:
    """Every method raises StoreUnreachable while Redis is away, or where there is none."""

    def __init__(self, client: redis.Redis | None, ttl_s: float) -> None:
        self._client = client
        self._ttl_ms = int(ttl_s * 1000)

    async def check(self) -> None:
        """Whether a place could be remembered now."""
        await self._run("check", self._require().ping())

    async def remember(self, place: Place) -> None:
        """Until `ttl_s` have passed, as long as our own responses are kept."""
        mapping: dict[Any, Any] = {**place.to_fields()}
        pipe = self._require().pipeline(transaction=True)
        pipe.hset(_key(place.response_id), mapping=mapping)
        pipe.pexpire(_key(place.response_id), self._ttl_ms)
        await self._run("remember", pipe.execute())

    async def find(self, response_id: str, tenant: str) -> Place | None:
        """None for a response that no provider made here, or made for another tenant."""
        fields = await self._run("find", self._require().hgetall(_key(response_id)))
        if not fields or fields[b"tenant"].decode() != tenant:
            return None
        return Place.from_fields(response_id, fields)

    async def forget(self, response_id: str) -> None:
        await self._run("forget", self._require().delete(_key(response_id)))

    async def may_count(self, response_id: str) -> bool:
        """Whether the response's usage is still to be counted; true once."""
        client = self._require()
        return bool(await self._run("count", client.eval(_COUNT, 1, _key(response_id))))

    def _require(self) -> redis.Redis:
        if self._client is None:
            raise StoreUnreachable
        return self._client

    async def _run(self, name: str, work: Any) -> Any:
        try:
            with trace.span(f"response places {name}"):
                return await work
        except RedisError as err:
            raise StoreUnreachable from err


def _key(response_id: str) -> str:
    return f"shoal:response-place:{response_id}"
