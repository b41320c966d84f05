"""Named keys in SQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shoal_common.errors import Unauthenticated
from shoal_common.testing.clock import FakeClock
from shoal_gateway import database as database_module
from shoal_gateway.access import gate
from shoal_gateway.access.budgets import Budgets
from shoal_gateway.access.callers import (
    HOUSE,
    KEY_FRESH_S,
    Caller,
    Callers,
    require_scope,
    scopes_for,
)
from shoal_gateway.access.key_store import KeyRecord, KeyStore, digest_of, looks_like_a_key
from shoal_gateway.access.rates import LocalBuckets
from shoal_gateway.auth import HouseKey
from shoal_gateway.database import Database, sqlite_url
from shoal_gateway.errors import DatabaseUnreachable, ScopeMissing, UnknownKey


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(sqlite_url(tmp_path / "gateway.db"))
    await database.start()
    yield database
    await database.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(database: Database, clock: FakeClock) -> KeyStore:
    return KeyStore(database, clock)


@pytest.fixture
def callers(store: KeyStore, clock: FakeClock) -> Callers:
    return Callers(HouseKey("h" * 64), store, clock)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def test_a_new_key_is_found_by_its_digest_alone(store: KeyStore, tmp_path: Path) -> None:
    made = await store.create("ci", ["chat", "mcp"], 1000)
    assert re.fullmatch(r"sk-shoal-[A-Za-z0-9_-]{43}", made.secret)
    assert await store.find(digest_of(made.secret)) == made.record
    assert await store.list() == [made.record]
    assert made.record.tenant == made.record.key_id
    assert made.secret not in repr(made)
    for path in tmp_path.iterdir():
        assert made.secret.encode() not in path.read_bytes()


async def test_keys_may_share_a_tenant(store: KeyStore) -> None:
    made = await store.create("ci", ["chat"], None, tenant="team")
    assert made.record.tenant == "team"


async def test_a_rotated_key_keeps_everything_but_its_secret(store: KeyStore) -> None:
    old = await store.create("ci", ["chat"], 7)
    new = await store.rotate(old.record.key_id)
    assert new.record == old.record
    assert new.secret != old.secret
    assert await store.find(digest_of(old.secret)) is None
    assert await store.find(digest_of(new.secret)) == old.record


async def test_a_revoked_key_is_listed_and_never_found(store: KeyStore, clock: FakeClock) -> None:
    made = await store.create("ci", ["chat"], None)
    revoked = await store.revoke(made.record.key_id)
    assert revoked.revoked_at == clock.time()
    assert await store.find(digest_of(made.secret)) is None
    assert await store.list() == [revoked]
    with pytest.raises(UnknownKey):
        await store.revoke(made.record.key_id)
    with pytest.raises(UnknownKey):
        await store.rotate(made.record.key_id)


async def test_the_house_key_may_do_everything(callers: Callers) -> None:
    assert await callers.identify(bearer("h" * 64)) == HOUSE
    assert await callers.identify({"x-api-key": "h" * 64}) == HOUSE


async def test_a_named_key_is_its_caller(callers: Callers, store: KeyStore) -> None:
    made = await store.create("ci", ["chat"], 5, tenant="team")
    caller = await callers.identify({"x-api-key": made.secret})
    assert (caller.name, caller.tenant, caller.scopes) == ("ci", "team", {"chat"})
    assert (caller.is_admin, caller.is_house, caller.monthly_token_budget) == (False, False, 5)


@pytest.mark.parametrize("shown", ["", "wrong", "sk-shoal-short", f"sk-shoal-{'x' * 43}"])
async def test_whoever_shows_no_valid_key_is_refused(callers: Callers, shown: str) -> None:
    with pytest.raises(Unauthenticated):
        await callers.identify(bearer(shown))


async def test_a_key_revoked_elsewhere_stops_within_two_seconds(
    callers: Callers, store: KeyStore, clock: FakeClock
) -> None:
    made = await store.create("ci", ["chat"], None)
    await callers.identify(bearer(made.secret))
    await store.revoke(made.record.key_id)
    assert KEY_FRESH_S <= 2.0
    await clock.advance(KEY_FRESH_S)
    with pytest.raises(Unauthenticated):
        await callers.identify(bearer(made.secret))


async def test_a_key_revoked_here_stops_at_once(callers: Callers, store: KeyStore) -> None:
    made = await store.create("ci", ["chat"], None)
    await callers.identify(bearer(made.secret))
    await store.revoke(made.record.key_id)
    callers.forget()
    with pytest.raises(Unauthenticated):
        await callers.identify(bearer(made.secret))


async def test_guesses_do_not_reach_the_database(callers: Callers, store: KeyStore) -> None:
    made = await store.create("ci", ["chat"], None)
    with pytest.raises(Unauthenticated):
        await callers.identify(bearer(made.secret), may_look_up=False)
    await callers.identify(bearer(made.secret))
    assert (await callers.identify(bearer(made.secret), may_look_up=False)).name == "ci"


class SlowStore(KeyStore):
    """Answers when told to, and counts the questions."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        super().__init__(database, clock)
        self.may_answer = asyncio.Event()
        self.is_asked = asyncio.Event()
        self.questions = 0

    async def find(self, digest: str) -> KeyRecord | None:
        self.questions += 1
        self.is_asked.set()
        await self.may_answer.wait()
        return await super().find(digest)


async def test_a_crowd_with_one_key_asks_once(database: Database, clock: FakeClock) -> None:
    store = SlowStore(database, clock)
    callers = Callers(HouseKey("h" * 64), store, clock)
    made = await store.create("ci", ["chat"], None)
    waiting = [asyncio.create_task(callers.identify(bearer(made.secret))) for _ in range(10)]
    await store.is_asked.wait()
    waiting[0].cancel()
    store.may_answer.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert {caller.name for caller in found[1:] if isinstance(caller, Caller)} == {"ci"}
    assert store.questions == 1


async def test_a_database_that_hangs_is_given_up(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "ADMIT_TIMEOUT_S", 0.01)
    store = SlowStore(database, clock)
    limits = gate.GateLimits(api_rpm=0, house_rpm=0, admin_rpm=0, relay_post_rpm=0, in_flight_max=1)
    door = gate.Gate(
        keys=store,
        callers=Callers(HouseKey("h" * 64), store, clock),
        buckets=LocalBuckets(clock),
        strangers=LocalBuckets(clock),
        budgets=Budgets(database, clock),
        limits=limits,
        allowed_hosts=(),
        trusted_proxies=(),
    )
    with pytest.raises(DatabaseUnreachable):
        await door.admit("GET", "/v1/models", bearer(f"sk-shoal-{'x' * 43}"), "1.1.1.1")
    assert (await door.admit("GET", "/v1/models", bearer("h" * 64), "1.1.1.1")).caller is HOUSE
    store.may_answer.set()


async def test_without_a_database_only_the_house_comes_in(tmp_path: Path, clock: FakeClock) -> None:
    away = Database(sqlite_url(tmp_path / "missing" / "gateway.db"))
    callers = Callers(HouseKey("h" * 64), KeyStore(away, clock), clock)
    assert await callers.identify(bearer("h" * 64)) == HOUSE
    with pytest.raises(DatabaseUnreachable):
        await callers.identify(bearer(f"sk-shoal-{'x' * 43}"))


async def test_the_last_use_is_written_once_a_minute(
    callers: Callers, store: KeyStore, clock: FakeClock
) -> None:
    made = await store.create("ci", ["chat"], None)
    await callers.identify(bearer(made.secret))
    first_at = clock.time()
    await callers.flush()
    assert [record.last_used_at for record in await store.list()] == [first_at]
    await clock.advance(30)
    await callers.identify(bearer(made.secret))
    await callers.flush()
    assert [record.last_used_at for record in await store.list()] == [first_at]
    await clock.advance(31)
    await callers.identify(bearer(made.secret))
    await callers.flush()
    assert [record.last_used_at for record in await store.list()] == [clock.time()]


@pytest.mark.parametrize(
    ("path", "scopes"),
    [
        ("/v1/chat/completions", {"chat"}),
        ("/v1/responses/resp_1/cancel", {"chat"}),
        ("/v1/messages", {"chat"}),
        ("/v1/models/a/b", {"chat", "models"}),
        ("/v1/modelsandmore", {"chat"}),
        ("/v1/embeddings", {"embeddings"}),
        ("/mcp", {"mcp"}),
        ("/mcpelse", set()),
        ("/api/admin/keys", {"admin"}),
        ("/relay/requests", {"observe"}),
        ("/", set()),
    ],
)
def test_every_path_has_its_scope(path: str, scopes: set[str]) -> None:
    assert scopes_for(path) == scopes


async def test_a_key_without_the_scope_is_told_which(callers: Callers, store: KeyStore) -> None:
    made = await store.create("ci", ["chat"], None)
    caller = await callers.identify(bearer(made.secret))
    require_scope(caller, "/v1/chat/completions")
    with pytest.raises(ScopeMissing, match="'ci' may not do this; it needs the scope admin"):
        require_scope(caller, "/api/admin/keys")
    admin = await store.create("root", ["admin"], None)
    require_scope(await callers.identify(bearer(admin.secret)), "/v1/chat/completions")


def test_only_what_looks_like_a_key_is_looked_up() -> None:
    assert looks_like_a_key(f"sk-shoal-{'a' * 43}")
    assert not looks_like_a_key(f"sk-shoal-{'a' * 44}")
    assert not looks_like_a_key(f"sk-shoal-{'é' * 43}")
    assert not looks_like_a_key("sk-proj-0123")
