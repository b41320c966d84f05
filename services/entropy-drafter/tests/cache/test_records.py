from __future__ import annotations

import pytest
from redis import asyncio as redis

from shoal_common.redis_client import connect
from shoal_common.testing import FakeClock
from shoal_entropy_drafter.cache.base import KeptAnswer
from shoal_entropy_drafter.cache.records import Record, Records, id_of, record_of
from shoal_entropy_drafter.errors import CacheStoreAway
from shoal_entropy_drafter.question import Question

from .conftest import question

ANSWER = KeptAnswer("a school of fish", "drafter", 7, 4)
TTL_S = 60


def records_of(client: redis.Redis, clock: FakeClock, entries_max: int = 1000) -> Records:
    return Records(client, "answers:", entries_max, clock)


def record(asked: Question, clock: FakeClock, text: str = ANSWER.text) -> Record:
    answer = KeptAnswer(text, "drafter", 7, 4)
    return record_of(asked, answer, int(clock.time()), TTL_S)


async def keep(records: Records, clock: FakeClock, *asked: Question) -> list[str]:
    return [one for q in asked for one in await records.write(id_of(q), record(q, clock))]


async def test_a_record_comes_back_as_it_was(client: redis.Redis) -> None:
    clock = FakeClock()
    records = records_of(client, clock)
    asked = question("what is a \u201cshoal\u201d? \U0001f41f")
    kept = record(asked, clock)
    assert await records.write(id_of(asked), kept) == []
    assert await records.read([id_of(asked), id_of(question("other"))]) == [kept, None]
    assert await records.read([]) == []
    assert kept.answer() == ANSWER


async def test_it_ends_when_its_time_is_over(client: redis.Redis) -> None:
    clock = FakeClock()
    records = records_of(client, clock)
    asked = question()
    await keep(records, clock, asked)
    assert 0 < await client.ttl("answers:record:" + id_of(asked)) <= TTL_S
    clock.jump(TTL_S - 1)
    assert (await records.read([id_of(asked)]))[0] is not None
    assert await records.count() == 1
    clock.jump(1)
    assert await records.read([id_of(asked)]) == [None]
    assert await records.count() == 0


async def test_a_newer_answer_takes_the_place_of_the_older(client: redis.Redis) -> None:
    clock = FakeClock()
    records = records_of(client, clock)
    asked = question()
    await keep(records, clock, asked)
    clock.jump(10)
    await records.write(id_of(asked), record(asked, clock, "newer"))
    (kept,) = await records.read([id_of(asked)])
    assert kept is not None
    assert kept.text == "newer"
    assert await records.count() == 1
    assert await records.oldest_age_s() == 0


async def test_the_oldest_leave_when_there_is_no_room(client: redis.Redis) -> None:
    clock = FakeClock()
    records = records_of(client, clock, entries_max=3)
    asked = [question(f"question {number}") for number in range(5)]
    left = []
    for one in asked:
        clock.jump(1)
        left += await keep(records, clock, one)
    assert left == [id_of(asked[0]), id_of(asked[1])]
    found = await records.read([id_of(one) for one in asked])
    assert [kept is not None for kept in found] == [False, False, True, True, True]
    assert await records.count() == 3
    assert await records.oldest_age_s() == 2


async def test_what_expired_leaves_before_what_lives(client: redis.Redis) -> None:
    clock = FakeClock()
    records = records_of(client, clock, entries_max=1)
    old, new = question("old"), question("new")
    await keep(records, clock, old)
    clock.jump(TTL_S + 1)
    assert await keep(records, clock, new) == [id_of(old)]
    assert (await records.read([id_of(new)]))[0] is not None


@pytest.mark.parametrize(
    ("tenant", "model", "kept"),
    [
        ("a", "", "bx by"),
        ("", "x", "ay by"),
        ("a", "x", "ay bx by"),
        ("", "", ""),
        ("c", "", "ax ay bx by"),
    ],
)
async def test_tenants_and_models_are_forgotten_apart(
    client: redis.Redis, tenant: str, model: str, kept: str
) -> None:
    clock = FakeClock()
    records = records_of(client, clock)
    asked = {
        f"{of}{by}{number}": question(f"{of}{by}{number}", tenant=of, model=by)
        for of in "ab"
        for by in "xy"
        for number in range(3)
    }
    await keep(records, clock, *asked.values())
    wanted = {name for name in asked if name[:2] in kept.split()}
    assert await records.forget(tenant, model) == len(asked) - len(wanted)
    found = await records.read([id_of(one) for one in asked.values()])
    assert {name for name, one in zip(asked, found, strict=True) if one} == wanted
    assert await records.count() == len(wanted)
    assert await records.forget(tenant, model) == 0


async def test_sweeping_leaves_no_keys_behind(client: redis.Redis) -> None:
    clock = FakeClock()
    records = records_of(client, clock)
    asked = [question(f"{number}", tenant=f"t{number % 3}") for number in range(9)]
    await keep(records, clock, *asked)
    await records.sweep()
    assert await records.count() == 9
    clock.jump(TTL_S)
    await records.sweep()
    left = {key.decode() for key in await client.keys("*")}
    # These end by Redis's own clock.
    assert {key for key in left if ":record:" not in key} == set()


async def test_collections_do_not_see_one_another(client: redis.Redis) -> None:
    clock = FakeClock()
    one = records_of(client, clock)
    other = Records(client, "others:", 10, clock)
    await keep(one, clock, question())
    assert await other.read([id_of(question())]) == [None]
    assert await other.forget("", "") == 0
    assert await one.count() == 1


async def test_what_cannot_be_read_is_gone(client: redis.Redis) -> None:
    records = records_of(client, FakeClock())
    for data in (b"{", b"[]", b'{"scope": "s"}', b"\xff\x00", b'{"scope": "s", "more": 1}'):
        await client.set("answers:record:x", data)
        assert await records.read(["x"]) == [None]


async def test_a_redis_that_is_away_is_told() -> None:
    connected = connect("redis://127.0.0.1:9/0")
    assert connected is not None
    clock = FakeClock()
    records = records_of(connected, clock)
    asked = question()
    for call in (
        records.read(["x"]),
        records.write("x", record(asked, clock)),
        records.forget("", ""),
        records.sweep(),
        records.count(),
        records.oldest_age_s(),
    ):
        with pytest.raises(CacheStoreAway, match="redis"):
            await call
    await connected.aclose()


def test_ids_follow_from_scope_and_key() -> None:
    assert id_of(question()) == id_of(question(tenant="b"))
    assert id_of(question()) != id_of(question(scope="other"))
    assert id_of(question()) != id_of(question("other"))


def test_texts_are_not_shown() -> None:
    shown = repr(record(question("secret question"), FakeClock(), "secret answer"))
    assert "secret question" not in shown.replace("key of secret question", "")
    assert "secret answer" not in shown
    assert "secret" not in repr(KeptAnswer("secret", "drafter", 1, 1))
