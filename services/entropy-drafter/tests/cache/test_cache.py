"""What a look-up gives, and what is kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import asyncio as redis

from shoal_common.testing import FakeClock
from shoal_common.testing.waiting import eventually
from shoal_entropy_drafter.cache import cache as module
from shoal_entropy_drafter.cache.base import CacheOff
from shoal_entropy_drafter.cache.cache import SWEEP_INTERVAL_S
from shoal_entropy_drafter.cache.edge import EdgeIndex
from shoal_entropy_drafter.cache.outage import FAILURES_MAX
from shoal_entropy_drafter.errors import EmbeddingFailed

from .conftest import collection, question
from .site import ANSWER, TTL_S, Site


@pytest.fixture
async def site(client: redis.Redis) -> AsyncIterator[Site]:
    made = Site(client)
    await made.cache.start()
    yield made
    made.index.may_answer.set()
    await made.cache.close()


async def test_the_same_question_is_found_by_its_key_alone(site: Site) -> None:
    assert await site.keep("what is a shoal?")
    site.clock.jump(9)
    site.embedder.call_count = 0
    found = await site.cache.look_up(question("what is a shoal?"))
    assert found.outcome == "exact"
    assert found.hit is not None
    assert found.hit.answer == ANSWER
    assert (found.hit.similarity, found.hit.age_s, found.hit.layer) == (1.0, 9, "exact")
    assert site.embedder.call_count == 0


async def test_another_wording_is_found_by_its_vector(site: Site) -> None:
    await site.keep("what is a shoal?")
    found = await site.cache.look_up(question("a shoal is what"))
    assert found.outcome == "semantic"
    assert found.hit is not None
    assert found.hit.answer == ANSWER
    assert found.hit.similarity == pytest.approx(1.0)
    assert found.hit.layer == "semantic"


async def test_what_was_never_asked_is_a_miss_with_its_vector(site: Site) -> None:
    await site.keep("what is a shoal?")
    found = await site.cache.look_up(question("who wrote this"))
    assert (found.outcome, found.hit) == ("miss", None)
    assert found.vector is not None
    site.embedder.call_count = 0
    assert await site.cache.store(question("who wrote this"), found.vector, ANSWER)
    assert site.embedder.call_count == 0
    assert await site.ask("this who wrote") == ("semantic", ANSWER.text)


async def test_other_words_are_another_question_however_close(site: Site) -> None:
    await site.keep("add 12 and 7 please", "19")
    assert await site.ask("please add 7 and 12") == ("guarded", "")
    await site.keep("add 7 and 12 please", "nineteen")
    assert await site.ask("please add 7 and 12") == ("semantic", "nineteen")
    assert await site.ask("please add 12 and 7") == ("semantic", "19")


async def test_a_newer_answer_replaces_the_older(site: Site) -> None:
    await site.keep("what is a shoal?", "old")
    await site.keep("what is a shoal?", "new")
    assert await site.ask("what is a shoal?") == ("exact", "new")
    assert await site.ask("a shoal is what") == ("semantic", "new")
    assert (await site.cache.stats()).entry_count == 1
    assert len(site.index.points) == 1


async def test_answers_end_with_their_time(site: Site) -> None:
    await site.keep("what is a shoal?")
    site.clock.jump(TTL_S - 1)
    assert (await site.ask("what is a shoal?"))[0] == "exact"
    site.clock.jump(1)
    assert (await site.ask("what is a shoal?"))[0] == "miss"
    assert (await site.ask("a shoal is what"))[0] == "miss"


async def test_a_point_without_its_record_is_let_go_of(site: Site) -> None:
    await site.keep("what is a shoal?")
    site.clock.jump(TTL_S)
    assert (await site.ask("a shoal is what"))[0] == "miss"
    await site.cache.settled()
    assert site.index.points == {}


async def test_what_has_no_room_any_more_loses_its_point(client: redis.Redis) -> None:
    site = Site(client, entries_max=2)
    await site.cache.start()
    for text in ("one fish", "two birds", "red apples"):
        site.clock.jump(1)
        await site.keep(text)
    assert len(site.index.points) == 2
    assert (await site.ask("one fish"))[0] == "miss"
    assert (await site.ask("apples red"))[0] == "semantic"
    await site.cache.close()


@pytest.mark.parametrize("text", ["", "  \n", "x" * (module.ANSWER_CHARACTERS_MAX + 1)])
async def test_empty_and_huge_answers_are_not_kept(site: Site, text: str) -> None:
    assert not await site.keep("what is a shoal?", text)
    assert (await site.ask("what is a shoal?"))[0] == "miss"
    assert site.metrics.stored_count == 0


async def test_tenants_and_models_are_forgotten_apart(site: Site) -> None:
    for tenant in ("a", "b"):
        for model in ("x", "y"):
            await site.keep("fish", scope=tenant + model, tenant=tenant, model=model)
    assert await site.cache.forget(tenant="a", model="x") == 1
    assert (await site.ask("fish", scope="ax", tenant="a", model="x"))[0] == "miss"
    assert (await site.ask("fish", scope="bx", tenant="b", model="x"))[0] == "exact"
    assert await site.cache.forget(tenant="b") == 2
    assert await site.cache.forget() == 1
    assert site.index.points == {}


async def test_the_sweep_lets_go_of_what_expired(site: Site) -> None:
    await site.keep("one fish")
    sweeping = asyncio.create_task(site.cache.run())
    await site.clock.advance(TTL_S - 1)
    await site.keep("two birds")
    assert len(site.index.points) == 2
    site.index.is_away = True
    await site.clock.advance(SWEEP_INTERVAL_S)
    site.index.is_away = False
    while len(site.index.points) > 1:
        await site.clock.advance(SWEEP_INTERVAL_S)
        await site.records.count()
    assert [point.tenant for point in site.index.points.values()] == ["a"]
    assert (await site.cache.stats()).entry_count == 1
    assert not sweeping.done()
    sweeping.cancel()
    await asyncio.wait([sweeping])


async def test_look_ups_are_counted_by_how_they_end(site: Site) -> None:
    await site.keep("add 12 and 7")
    site.clock.jump(5)
    for text in ("add 12 and 7", "7 and 12 add", "and 12 7 add", "other words altogether"):
        await site.ask(text)
    await site.ask("add 12 and 7", scope="elsewhere")
    stats = await site.cache.stats()
    assert stats.is_ready
    assert (stats.entry_count, stats.oldest_age_s) == (1, 5)
    counts = (stats.exact_hit_count, stats.semantic_hit_count, stats.guarded_count)
    assert counts == (1, 1, 1)
    assert (stats.miss_count, stats.failure_count) == (2, 0)
    assert site.metrics.outcomes == ["exact", "guarded", "semantic", "miss", "miss"]
    assert site.metrics.stored_count == 1


async def test_no_more_than_so_many_are_kept_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORES_MAX", 2)
    site.index.may_answer.clear()
    first = [asyncio.create_task(site.keep(f"question {n}")) for n in range(2)]
    await eventually(lambda: site.index.calls.count("upsert") == 2)
    assert not await site.keep("one too many")
    site.index.may_answer.set()
    assert await asyncio.gather(*first) == [True, True]
    assert await site.keep("one more")


async def test_texts_are_never_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await site.keep("secret question", "secret answer")
    found = await site.cache.look_up(question("question secret"))
    site.index.is_away = True
    site.embedder.error = EmbeddingFailed("words", "refused")
    for _ in range(FAILURES_MAX):
        await site.ask("secret other")
    assert caplog.records
    assert not [r for r in caplog.records if "secret" in str(r.__dict__)]
    assert "secret" not in repr(found)
    assert "vector" not in repr(found)


async def test_it_works_with_a_folder_as_well(client: redis.Redis, tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path / "answers", collection(), FakeClock())
    site = Site(client, index=index)
    await site.cache.start()
    await site.keep("what is a shoal?")
    assert await site.ask("a shoal is what") == ("semantic", ANSWER.text)
    assert await site.ask("a shoal is what", scope="other") == ("miss", "")
    site.clock.jump(TTL_S)
    await site.cache.sweep()
    assert await index.count() == 0
    await site.cache.close()


async def test_a_cache_that_is_off_finds_and_keeps_nothing() -> None:
    cache = CacheOff()
    await cache.start()
    assert not await cache.store(question(), None, ANSWER)
    assert (await cache.look_up(question())).outcome == "off"
    assert await cache.forget() == 0
    assert not (await cache.stats()).is_ready
    await cache.run()
    await cache.close()
