from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from shoal_common.testing import FakeClock
from shoal_common.testing.clock import settle
from shoal_common.testing.redis import start_redis
from shoal_router.session_store import session_store
from shoal_router.sessions import Sessions, StoreAway, session_key


class FakeStore:
    """A copy in memory, away while `is_away`."""

    def __init__(self, **sessions: str) -> None:
        self.sessions = dict(sessions)
        self.is_away = False
        self.wrote = asyncio.Event()

    async def read(self, count_max: int) -> Mapping[str, str]:
        if self.is_away:
            raise StoreAway("away")
        return dict(list(self.sessions.items())[:count_max])

    async def write(self, sessions: Mapping[str, str], ttl_s: float) -> None:
        if self.is_away:
            raise StoreAway("away")
        self.sessions |= sessions
        self.wrote.set()

    async def close(self) -> None:
        return


def sessions_of(store: FakeStore, clock: FakeClock | None = None, count_max: int = 4) -> Sessions:
    return Sessions(clock or FakeClock(), store, ttl_s=60.0, count_max=count_max)


def test_a_session_ends_when_its_time_is_over() -> None:
    clock = FakeClock()
    sessions = sessions_of(FakeStore(), clock)
    sessions.went("talk", "p1")
    clock.jump(59)
    assert sessions.pipeline_id("talk") == "p1"
    clock.jump(1)
    assert sessions.pipeline_id("talk") is None
    sessions.went("other", "p2")
    assert len(sessions) == 1


def test_beyond_the_bound_the_longest_unused_go() -> None:
    sessions = sessions_of(FakeStore(), count_max=2)
    for key in ("a", "b", "a", "c"):
        sessions.went(key, "p")
    assert [key for key in "abc" if sessions.pipeline_id(key)] == ["a", "c"]


def test_keys_hide_names_and_keep_tenants_apart() -> None:
    keys = {
        session_key(*parts)
        for parts in (("t", "m", "s"), ("tm", "", "s"), ("t", "ms", ""), ("", "tm", "s"))
    }
    assert len(keys) == 4
    assert all(key != "s" and len(key) == 32 for key in keys)


async def test_a_restarted_router_knows_sessions_again_and_newer_ones_win() -> None:
    sessions = sessions_of(FakeStore(old="p1", new="p1"))
    sessions.went("new", "p2")
    task = asyncio.create_task(sessions.keep_copy())
    await settle()
    assert (sessions.pipeline_id("old"), sessions.pipeline_id("new")) == ("p1", "p2")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_without_its_copy_memory_serves_and_what_was_missed_is_written_later() -> None:
    store, clock = FakeStore(), FakeClock()
    store.is_away = True
    sessions = sessions_of(store, clock)
    task = asyncio.create_task(sessions.keep_copy())
    sessions.went("talk", "p1")
    await settle()
    assert sessions.pipeline_id("talk") == "p1"
    sessions.went("talk", "p2")
    store.is_away = False
    await clock.advance(5)
    await store.wrote.wait()
    assert store.sessions == {"talk": "p2"}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_redis_keeps_sessions_for_the_next_router(tmp_path: Path) -> None:
    with start_redis(tmp_path) as redis:
        first, second = session_store(redis.url), session_store(redis.url)
        try:
            await first.write({"a" * 32: "p1", "b" * 32: "p2"}, ttl_s=60.0)
            assert await second.read(10) == {"a" * 32: "p1", "b" * 32: "p2"}
            await first.write({"a" * 32: "p3"}, ttl_s=60.0)
            assert (await second.read(10))["a" * 32] == "p3"
        finally:
            await first.close()
            await second.close()


async def test_redis_that_is_away_says_so_at_once() -> None:
    store = session_store("redis://127.0.0.1:1/0")
    for call in (store.read(1), store.write({"a": "p"}, 1.0)):
        try:
            await call
        except StoreAway:
            continue
        raise AssertionError("nobody listens there")
    await store.close()


async def test_without_a_url_nothing_is_kept() -> None:
    store = session_store("")
    await store.write({"a": "p"}, 1.0)
    assert await store.read(1) == {}
    await store.close()
