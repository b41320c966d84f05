"""Records and event logs of responses in Redis, shared by all gateways.

A record is a hash, its log a stream whose ids are sequence numbers plus one, and a key that its
producer must renew says that somebody still answers. Whoever meets a record that is not ended and
has lost that key ends it as failed. The status moves in a script, so a record ends once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis import asyncio as redis
from redis.exceptions import RedisError

from shoal_common import trace
from shoal_common.clock import Clock
from shoal_gateway.dialects.responses_output import WireEvent
from shoal_gateway.dialects.responses_render import TERMINAL, failed_event, frame
from shoal_gateway.responses.errors import ProducerLost, StoreUnreachable
from shoal_gateway.responses.record import Record, Summary, to_json

Word = Literal["going", "cancelled", "ended", "gone", "gap"]

_RECENT = "shoal:responses"
_RECENT_COUNT_MAX = 100_000
_TAIL_BLOCK_MS = 1000
# Each waiting tail holds a connection; those beyond look again every so often instead.
_TAILS_WAITING_MAX = 16
_TAIL_POLL_S = 0.1
_TAIL_ENTRIES_MAX = 256
_PAGE = 200
_SUMMARY_FIELDS = ("tenant", "status", "created_at", "model", "is_background", "snippet")

# KEYS: record, log, alive. ARGV: milliseconds a record is kept, milliseconds until the producer
# must write again, new status or "", its object, then the id and frame of each event.
_APPEND = f"""
local is_terminal = {{{", ".join(f"{status}=true" for status in TERMINAL)}}}
local known = redis.call('HMGET', KEYS[1], 'status', 'is_cancelled')
if not known[1] then return 'gone' end
if is_terminal[known[1]] then return 'ended' end
local last = 0
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
if newest[1] then last = tonumber(string.match(newest[1][1], '%-(%d+)$')) end
if ARGV[5] and tonumber(ARGV[5]) > last + 1 then return 'gap' end
for at = 5, #ARGV, 2 do
  if tonumber(ARGV[at]) > last then
    local name = 'frame'
    if at + 2 > #ARGV and is_terminal[ARGV[3]] then name = 'last_frame' end
    redis.call('XADD', KEYS[2], '0-' .. ARGV[at], name, ARGV[at + 1])
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[1])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'status', ARGV[3], 'response', ARGV[4])
end
if is_terminal[ARGV[3]] then
  redis.call('DEL', KEYS[3])
else
  redis.call('SET', KEYS[3], '1', 'PX', ARGV[2])
end
if known[2] then return 'cancelled' end
return 'going'
"""
# KEYS: record.
_CANCEL = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'is_cancelled', '1')
return 1
"""


@dataclass(frozen=True)
class StoreLimits:
    """ttl_s: how long a record is kept. size_bytes_max: of one record or one log.

    alive_s: a producer that wrote nothing for longer is dead.
    """

    ttl_s: float
    size_bytes_max: int
    alive_s: float


class ResponseStore:
    """Every method but `is_up` raises StoreUnreachable while Redis is away."""

    def __init__(self, client: redis.Redis | None, limits: StoreLimits, clock: Clock) -> None:
        self.limits = limits
        self._client = client
        self._clock = clock
        self._tails_waiting = 0
        if client is not None:
            self._append = client.register_script(_APPEND)
            self._cancel = client.register_script(_CANCEL)

    async def is_up(self) -> bool:
        """Whether a response could be stored now."""
        if self._client is None:
            return False
        try:
            await self._client.ping()
        except RedisError:
            return False
        return True

    async def save(self, record: Record, events: Sequence[tuple[int, bytes]]) -> None:
        """Write a new record with its events so far, as (sequence number, frame).

        One that is not ended must be appended to within `limits.alive_s`.
        """
        record_key, log_key, alive_key = _keys(record.response_id)
        ttl_ms = int(self.limits.ttl_s * 1000)
        pipe = self._require().pipeline(transaction=True)
        mapping: dict[Any, Any] = {**record.to_fields()}
        pipe.hset(record_key, mapping=mapping)
        pipe.pexpire(record_key, ttl_ms)
        for sequence_number, data in events:
            is_last = record.is_ended and sequence_number == events[-1][0]
            name = "last_frame" if is_last else "frame"
            pipe.xadd(log_key, {name: data}, id=f"0-{sequence_number + 1}")
        if events:
            pipe.pexpire(log_key, ttl_ms)
        if not record.is_ended:
            pipe.set(alive_key, "1", px=int(self.limits.alive_s * 1000))
        pipe.zadd(_RECENT, {record.response_id: record.created_at})
        pipe.zremrangebyscore(_RECENT, "-inf", record.created_at - self.limits.ttl_s)
        pipe.zremrangebyrank(_RECENT, 0, -_RECENT_COUNT_MAX - 1)
        await self._run("save", pipe.execute())

    async def append(
        self,
        response_id: str,
        events: Sequence[tuple[int, bytes]],
        status: str = "",
        response: dict[str, Any] | None = None,
    ) -> Word:
        """Add events to a running response, move it to `status`, and say that it is alive.

        Events that are there already are passed over. Nothing happens to one that is ended or
        gone, or where events before these are missing: a Redis that crashed may have forgotten what
        it took last. Returns what its producer should know.
        """
        self._require()
        arguments: list[Any] = [int(self.limits.ttl_s * 1000), int(self.limits.alive_s * 1000)]
        arguments += [status, "" if response is None else to_json(response)]
        for sequence_number, data in events:
            arguments += [sequence_number + 1, data]
        word = await self._run("append", self._append(keys=_keys(response_id), args=arguments))
        found: Word = word.decode()
        return found

    async def load(self, response_id: str, tenant: str) -> Record | None:
        """The tenant's record as it is now; None where there is none."""
        record_key, _, alive_key = _keys(response_id)
        pipe = self._require().pipeline(transaction=True)
        pipe.hgetall(record_key)
        pipe.exists(alive_key)
        fields, is_alive = await self._run("load", pipe.execute())
        if not fields or fields[b"tenant"].decode() != tenant:
            return None
        record = Record.from_fields(response_id, fields)
        if record.is_ended or is_alive:
            return record
        if await self._is_fresh():
            return record
        await self._end_orphan(record)
        return await self.load(response_id, tenant)

    async def ask_to_cancel(self, response_id: str) -> None:
        """Its producer learns of it with its next `append`."""
        self._require()
        await self._run("cancel", self._cancel(keys=_keys(response_id)[:1]))

    async def delete(self, response_id: str) -> None:
        """Forget the record and its events; a producer that still runs learns of it."""
        pipe = self._require().pipeline(transaction=True)
        pipe.delete(*_keys(response_id))
        pipe.zrem(_RECENT, response_id)
        await self._run("delete", pipe.execute())

    async def tail(self, record: Record, after: int) -> AsyncGenerator[bytes, None]:
        """The frames of events numbered above `after`, as they come, until the response ends."""
        position = f"0-{max(0, after + 1)}"
        is_ended = record.is_ended
        while True:
            entries = await self._read_log(record.response_id, position, may_wait=not is_ended)
            if entries:
                position = entries[-1][0].decode()
                yield b"".join(data for _, fields in entries for data in fields.values())
                if b"last_frame" in entries[-1][1]:
                    return
            elif is_ended:
                return
            else:
                found = await self.load(record.response_id, record.tenant)
                is_ended = found is None or found.is_ended

    async def wait_for_end(self, record: Record) -> Record | None:
        """The record once it is ended; None once it is gone."""
        async for _ in self.tail(record, await self._last_number(record.response_id)):
            continue
        return await self.load(record.response_id, record.tenant)

    async def recent(self, count_max: int, status: str = "") -> list[Summary]:
        """The newest records of all tenants first, of one status where it is named."""
        found: list[Summary] = []
        start = 0
        while len(found) < count_max:
            reading = self._require().zrevrange(_RECENT, start, start + _PAGE - 1)
            names = await self._run("list", reading)
            if not names:
                break
            start += _PAGE
            summaries = await self._summaries([name.decode() for name in names])
            found += [each for each in summaries if not status or each.status == status]
        return found[:count_max]

    async def _summaries(self, response_ids: list[str]) -> list[Summary]:
        pipe = self._require().pipeline(transaction=False)
        for response_id in response_ids:
            record_key, _, alive_key = _keys(response_id)
            pipe.hmget(record_key, _SUMMARY_FIELDS)
            pipe.exists(alive_key)
        answers = await self._run("list", pipe.execute())
        found = []
        for response_id, values, is_alive in zip(
            response_ids, answers[::2], answers[1::2], strict=True
        ):
            if values[0] is None:
                continue
            tenant, status, created_at, model, is_background, snippet = (v.decode() for v in values)
            if status not in TERMINAL and not is_alive:
                status = "failed"
            found.append(
                Summary(
                    response_id,
                    tenant,
                    status,
                    int(created_at),
                    model,
                    bool(is_background),
                    snippet,
                )
            )
        return found

    async def _is_fresh(self) -> bool:
        """Redis has just come back, and producers had no time yet to say that they live."""
        facts = await self._run("uptime", self._require().info("server"))
        return int(facts["uptime_in_seconds"]) + 1 < self.limits.alive_s

    async def _end_orphan(self, record: Record) -> None:
        """Fail a response that nobody answers any more."""
        number = await self._last_number(record.response_id) + 1
        event: WireEvent = failed_event(dict(record.response), ProducerLost(), number)
        events = [(number, frame(event))]
        await self.append(record.response_id, events, "failed", event["response"])

    async def _last_number(self, response_id: str) -> int:
        """The sequence number of the newest event; -1 where there is none."""
        reading = self._require().xrevrange(_keys(response_id)[1], count=1)
        newest = await self._run("tail", reading)
        return int(newest[0][0].decode().partition("-")[2]) - 1 if newest else -1

    async def _read_log(self, response_id: str, position: str, may_wait: bool) -> list[Any]:
        """Entries behind `position`; waits for the first one a while."""
        if not may_wait:
            return await self._entries(response_id, position, None)
        if self._tails_waiting >= _TAILS_WAITING_MAX:
            await self._clock.sleep(_TAIL_POLL_S)
            return await self._entries(response_id, position, None)
        self._tails_waiting += 1
        try:
            return await self._entries(response_id, position, _TAIL_BLOCK_MS)
        finally:
            self._tails_waiting -= 1

    async def _entries(self, response_id: str, position: str, block_ms: int | None) -> list[Any]:
        key = _keys(response_id)[1]
        reading = self._require().xread({key: position}, count=_TAIL_ENTRIES_MAX, block=block_ms)
        answer = await self._run("tail", reading)
        if not answer:
            return []
        # RESP3 answers with a map of lists of lists, RESP2 with a list of pairs.
        if isinstance(answer, dict):
            (batches,) = answer.values()
            return [entry for batch in batches for entry in batch]
        entries: list[Any] = answer[0][1]
        return entries

    def _require(self) -> redis.Redis:
        if self._client is None:
            raise StoreUnreachable
        return self._client

    async def _run(self, name: str, work: Any) -> Any:
        try:
            with trace.span(f"responses {name}"):
                return await work
        except RedisError as err:
            raise StoreUnreachable from err


def _keys(response_id: str) -> tuple[str, str, str]:
    """Record, log and sign of life; the braces keep them on one shard of a cluster."""
    key = f"shoal:response:{{{response_id}}}"
    return key, f"{key}:log", f"{key}:alive"
