"""Token buckets: one contract for this process's and for Redis's, and what joins them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from shoal_common.redis_client import connect
from shoal_common.testing.clock import FakeClock
from shoal_common.testing.redis import RedisProcess, start_redis
from shoal_gateway.access import rates
from shoal_gateway.access.rates import (
    LEASE_S,
    Allowance,
    Buckets,
    Draw,
    FallbackBuckets,
    LocalBuckets,
    SharedBuckets,
    make_buckets,
)


@pytest.fixture
def redis_process(tmp_path: Path) -> AsyncIterator[RedisProcess]:
    with start_redis(tmp_path) as process:
        yield process


@pytest.fixture
async def client(redis_process: RedisProcess) -> AsyncIterator[Redis]:
    client = connect(redis_process.url)
    assert client is not None
    yield client
    await client.aclose()


@pytest.fixture(params=["local", "shared"])
def buckets(request: pytest.FixtureRequest) -> Buckets:
    if request.param == "local":
        return LocalBuckets(FakeClock())
    return SharedBuckets(request.getfixturevalue("client"), FakeClock())


async def test_a_bucket_holds_its_limit_and_then_refuses(buckets: Buckets) -> None:
    draws = [await buckets.take("a", 3) for _ in range(4)]
    assert [draw.is_taken for draw in draws] == [True, True, True, False]
    # Redis's clock runs on meanwhile.
    assert [int(draw.tokens + 0.01) for draw in draws] == [2, 1, 0, 0]


async def test_buckets_are_apart(buckets: Buckets) -> None:
    assert (await buckets.take("a", 1)).is_taken
    assert not (await buckets.take("a", 1)).is_taken
    assert (await buckets.take("b", 1)).is_taken


async def test_no_two_at_once_take_the_same_token(buckets: Buckets) -> None:
    draws = await asyncio.gather(*(buckets.take("a", 5) for _ in range(20)))
    assert sum(draw.is_taken for draw in draws) == 5


async def test_a_lower_limit_holds_at_once(buckets: Buckets) -> None:
    await buckets.take("a", 100)
    draw = await buckets.take("a", 2)
    assert draw.is_taken
    assert draw.tokens < 1.5


async def test_tokens_come_back_with_time() -> None:
    clock = FakeClock()
    buckets = LocalBuckets(clock)
    assert [(await buckets.take("a", 60)).is_taken for _ in range(61)] == [True] * 60 + [False]
    await clock.advance(0.9)
    assert not (await buckets.take("a", 60)).is_taken
    await clock.advance(0.2)
    assert (await buckets.take("a", 60)).is_taken
    await clock.advance(3600)
    assert (await buckets.take("a", 60)).tokens == 59


async def test_redis_forgets_a_bucket_that_is_full_again(client: Redis) -> None:
    await SharedBuckets(client, FakeClock()).take("a", 5)
    assert 0 < await client.pttl("shoal:rate:a") <= 60_000


async def test_high_limits_ask_redis_once_a_second_and_never_grant_more(client: Redis) -> None:
    limit, clock = 600, FakeClock()
    one, two = SharedBuckets(client, clock), SharedBuckets(client, clock)
    assert (await one.take("a", limit)).tokens == limit - 1
    await client.delete("shoal:rate:a")
    for left in range(8, -1, -1):
        assert (await one.take("a", limit)).tokens == limit - 10 + left
    assert not await client.exists("shoal:rate:a")
    draws = [await buckets.take("a", limit) for _ in range(400) for buckets in (one, two)]
    # Redis's own clock gives back ten a second meanwhile.
    assert limit <= sum(draw.is_taken for draw in draws) < 790


async def test_a_crowd_with_a_high_limit_loses_no_tokens(client: Redis) -> None:
    buckets = SharedBuckets(client, FakeClock())
    draws = await asyncio.gather(*(buckets.take("a", 600) for _ in range(100)))
    assert all(draw.is_taken for draw in draws)
    draws = [await buckets.take("a", 600) for _ in range(500)]
    assert all(draw.is_taken for draw in draws)


async def test_a_lease_ends(client: Redis) -> None:
    clock = FakeClock()
    buckets = SharedBuckets(client, clock)
    await buckets.take("a", 600)
    await client.delete("shoal:rate:a")
    await clock.advance(LEASE_S)
    await buckets.take("a", 600)
    assert await client.exists("shoal:rate:a")


async def test_the_script_survives_a_redis_that_forgot_it(client: Redis) -> None:
    buckets = SharedBuckets(client, FakeClock())
    assert (await buckets.take("a", 5)).is_taken
    await client.script_flush()
    assert (await buckets.take("a", 5)).is_taken


def test_the_allowance_says_when_to_come_again() -> None:
    left = Allowance.of(Draw(True, 59.0), 60)
    assert (left.remaining, left.reset_s, left.retry_after_s) == (59, 1.0, 0.0)
    gone = Allowance.of(Draw(False, 0.25), 60)
    assert (gone.remaining, gone.reset_s, gone.retry_after_s) == (0, 59.75, 0.75)


class FlakyBuckets:
    """Shared buckets that fail, or never answer."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False
        self.calls = 0

    async def take(self, name: str, limit: int) -> Draw:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return Draw(True, 42.0)


async def test_without_redis_limits_are_local_and_redis_is_left_alone_for_a_second() -> None:
    clock, shared = FakeClock(), FlakyBuckets()
    buckets = FallbackBuckets(shared, LocalBuckets(clock), clock)
    assert (await buckets.take("a", 2)).tokens == 42
    shared.error = RedisConnectionError("gone")
    taken = [(await buckets.take("a", 2)).is_taken for _ in range(3)]
    assert taken == [True, True, False]
    assert shared.calls == 2
    shared.error = None
    await clock.advance(1.0)
    assert (await buckets.take("a", 2)).tokens == 42


async def test_a_silent_redis_does_not_hold_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "ANSWER_TIMEOUT_S", 0.01)
    clock, shared = FakeClock(), FlakyBuckets()
    shared.hangs = True
    buckets = FallbackBuckets(shared, LocalBuckets(clock), clock)
    async with asyncio.timeout(5):
        assert (await buckets.take("a", 2)).tokens == 1


async def test_a_redis_killed_midway_and_started_again(redis_process: RedisProcess) -> None:
    client = connect(redis_process.url)
    assert client is not None
    clock = FakeClock()
    buckets = make_buckets(client, clock)
    assert (await buckets.take("a", 2)).is_taken
    redis_process.kill()
    # The replica's own bucket is full.
    taken = [(await buckets.take("a", 2)).is_taken for _ in range(3)]
    assert taken == [True, True, False]
    redis_process.start()
    await clock.advance(1.0)
    assert (await buckets.take("b", 2)).is_taken
    assert await client.exists("shoal:rate:b")
    await client.aclose()


def test_no_redis_is_no_error() -> None:
    assert isinstance(make_buckets(None, FakeClock()), LocalBuckets)
