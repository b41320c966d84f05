"""What a look-up gives, what is kept, and what happens when a store is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from redis import asyncio as redis

from shoal_common.redis_client import connect
from shoal_common.testing import FakeClock
from shoal_common.testing.redis import start_redis
from shoal_entropy_drafter.cache import cache as module
from shoal_entropy_drafter.cache.base import CacheOff, KeptAnswer, Outcome, Store
from shoal_entropy_drafter.cache.cache import SWEEP_INTERVAL_S, CacheRules, SemanticCache
from shoal_entropy_drafter.cache.edge import EdgeIndex
from shoal_entropy_drafter.cache.outage import FAILURES_MAX, RETRY_AFTER_S
from shoal_entropy_drafter.cache.records import Records
from shoal_entropy_drafter.embedder.base import Embedded
from shoal_entropy_drafter.errors import (
    CacheStoreAway,
    DimensionsDiffer,
    EmbedderBusy,
    EmbeddingFailed,
    TextTooLong,
)

from .conftest import SIZE, collection, question
from .memory_index import MemoryIndex, Shelf

ANSWER = KeptAnswer("a school of fish", "drafter", 7, 4)
TTL_S = 600
# Real time, of which none passes while something answers at once.
BUDGET_S = 0.2


class WordsEmbedder:
    """Texts of the same words are alike. error: raised instead. may_answer: cleared, it hangs."""

    model = "words"
    dimensions = SIZE

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.call_count = 0

    async def embed(self, texts: Sequence[str]) -> Embedded:
        self.call_count += 1
        await self.may_answer.wait()
        if self.error:
            raise self.error
        vectors = np.stack([self._vector(text) for text in texts])
        return Embedded(vectors, len(texts))

    async def close(self) -> None:
        return

    def _vector(self, text: str) -> np.ndarray:
        vector = np.zeros(SIZE, dtype=np.float32)
        for word in text.lower().replace("?", "").split():
            vector += np.random.RandomState(sum(word.encode())).standard_normal(SIZE)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def same_numbers(one: str, other: str) -> str:
    """A guard that knows of digits alone."""
    digits = ["".join(c for c in text if c.isdigit()) for text in (one, other)]
    return "" if digits[0] == digits[1] else "number"


@dataclass
class Counted:
    """Metrics as lists."""

    outcomes: list[Outcome] = field(default_factory=list)
    failures: list[Store] = field(default_factory=list)
    stored_count: int = 0

    def looked_up(self, outcome: Outcome, duration_s: float) -> None:
        self.outcomes.append(outcome)

    def failed(self, store: Store) -> None:
        self.failures.append(store)

    def stored(self) -> None:
        self.stored_count += 1


class Site:
    """A cache with everything around it."""

    def __init__(
        self, client: redis.Redis, budget_s: float = BUDGET_S, entries_max: int = 100
    ) -> None:
        self.clock = FakeClock()
        self.index = MemoryIndex(Shelf(), collection())
        self.embedder = WordsEmbedder()
        self.metrics = Counted()
        self.records = Records(client, "answers:", entries_max, self.clock)
        self.cache = SemanticCache(
            CacheRules(0.95, TTL_S, budget_s),
            self.records,
            self.index,
            self.embedder,
            same_numbers,
            self.clock,
            self.metrics,
        )

    async def keep(self, text: str, answer: str = ANSWER.text, **where: str) -> bool:
        kept = KeptAnswer(answer, "drafter", 7, 4)
        return await self.cache.store(question(text, **where), None, kept)

    async def ask(self, text: str, **where: str) -> tuple[Outcome, str]:
        found = await self.cache.look_up(question(text, **where))
        return found.outcome, found.hit.answer.text if found.hit else ""


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


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{record.levelname} {record.store}"
        for record in caplog.records
        if "store" in record.__dict__
    ]  # type: ignore[attr-defined]


async def test_without_redis_requests_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = start_redis(tmp_path)
    client = connect(server.url)
    assert client is not None
    site = Site(client, budget_s=5.0)
    await site.cache.start()
    assert await site.keep("what is a shoal?")
    server.kill()
    for _ in range(10):
        assert (await site.ask("what is a shoal?"))[0] == "failed"
    assert site.metrics.failures == ["redis"] * FAILURES_MAX
    assert not await site.keep("what is a shoal?")
    assert not (await site.cache.stats()).is_ready
    with pytest.raises(CacheStoreAway):
        await site.cache.forget()
    server.start()
    site.clock.jump(RETRY_AFTER_S)
    # It kept them on disk.
    assert (await site.ask("what is a shoal?"))[0] == "exact"
    assert (await site.cache.stats()).is_ready
    assert warnings_of(caplog) == ["WARNING redis", "INFO redis"]
    await site.cache.close()
    await client.aclose()
    server.stop()


async def test_without_qdrant_the_same_question_is_still_found(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await site.keep("what is a shoal?")
    site.index.is_away = True
    site.index.calls.clear()
    for _ in range(10):
        assert (await site.ask("a shoal is what"))[0] == "failed"
    assert site.index.calls == ["search"] * FAILURES_MAX
    assert (await site.ask("what is a shoal?"))[0] == "exact"
    assert await site.keep("two birds")
    assert (await site.ask("two birds"))[0] == "exact"
    assert not (await site.cache.stats()).is_ready
    site.index.is_away = False
    site.clock.jump(RETRY_AFTER_S)
    assert (await site.ask("a shoal is what"))[0] == "semantic"
    assert (await site.cache.stats()).is_ready
    assert warnings_of(caplog) == ["WARNING qdrant", "INFO qdrant"]


async def test_without_an_embedder_the_same_question_is_still_found(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.embedder.error = EmbeddingFailed("words", "refused")
    assert await site.keep("what is a shoal?")
    for _ in range(FAILURES_MAX):
        assert (await site.ask("a shoal is what"))[0] == "failed"
    assert (await site.ask("what is a shoal?"))[0] == "exact"
    assert warnings_of(caplog) == ["WARNING embedder"]


async def test_a_busy_embedder_is_not_away(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.embedder.error = EmbedderBusy(99)
    for _ in range(2 * FAILURES_MAX):
        assert (await site.ask("what is a shoal?"))[0] == "failed"
    site.embedder.error = None
    assert (await site.ask("what is a shoal?"))[0] == "miss"
    assert site.metrics.failures == ["embedder"] * 2 * FAILURES_MAX
    assert caplog.records == []


async def test_an_embedder_slower_than_the_budget_is_told_once(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = Site(client, budget_s=0.02)
    await site.cache.start()
    embed = site.embedder.embed

    async def slow(texts: Sequence[str]) -> Embedded:
        site.clock.jump(0.3)
        if in_look_up:
            await asyncio.Event().wait()
        return await embed(texts)

    site.embedder.embed = slow  # type: ignore[method-assign]
    for number in range(4 * FAILURES_MAX):
        in_look_up = True
        assert (await site.ask(f"question {number}"))[0] == "failed"
        in_look_up = False
        # Nobody waits for this one, so it succeeds.
        assert await site.keep(f"question {number}")
        site.clock.jump(RETRY_AFTER_S)
    assert warnings_of(caplog) == ["WARNING embedder"]
    assert "cache_timeout_ms" in caplog.records[0].problem  # type: ignore[attr-defined]
    await site.cache.close()


async def test_readiness_is_told_at_the_first_look(client: redis.Redis) -> None:
    away = connect("redis://127.0.0.1:9/0")
    assert away is not None
    site = Site(away)
    await site.cache.start()
    assert not (await site.cache.stats()).is_ready
    assert site.metrics.failures == ["redis"]
    await site.cache.close()
    await away.aclose()


async def test_a_text_too_long_to_embed_is_kept_by_its_key(site: Site) -> None:
    site.embedder.error = TextTooLong(0, 99_999, 32_768)
    assert (await site.ask("very long"))[0] == "miss"
    assert await site.keep("very long")
    assert await site.ask("very long") == ("exact", ANSWER.text)
    assert site.metrics.failures == []


@pytest.mark.parametrize("hanging", ["qdrant", "embedder"])
async def test_a_look_up_ends_with_its_budget(client: redis.Redis, hanging: Store) -> None:
    site = Site(client, budget_s=0.03)
    await site.cache.start()
    stuck = {"qdrant": site.index.may_answer, "embedder": site.embedder.may_answer}[hanging]
    stuck.clear()
    found = await site.cache.look_up(question())
    assert found.outcome == "failed"
    assert (found.vector is not None) == (hanging == "qdrant")
    assert site.metrics.failures == [hanging]
    stuck.set()
    assert (await site.ask("what is a shoal?"))[0] == "miss"
    await site.cache.close()


async def test_a_redis_that_hangs_costs_the_budget_a_few_times() -> None:
    accepted: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    port = hanging.sockets[0].getsockname()[1]
    client = connect(f"redis://127.0.0.1:{port}/0")
    assert client is not None
    site = Site(client, budget_s=0.03)
    await site.cache.start()
    for _ in range(3 * FAILURES_MAX):
        assert (await site.ask("what is a shoal?"))[0] == "failed"
    assert site.metrics.failures == ["redis"] * FAILURES_MAX
    await site.cache.close()
    await client.aclose()
    for writer in accepted:
        writer.close()
    hanging.close()


async def test_an_index_away_at_start_is_opened_behind_the_requests(
    client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = Site(client)
    site.index.is_away = True
    await site.cache.start()
    assert not (await site.cache.stats()).is_ready
    for _ in range(3):
        assert (await site.ask("what is a shoal?"))[0] == "failed"
    assert site.index.calls == ["start"]
    site.index.is_away = False
    site.clock.jump(RETRY_AFTER_S)
    assert (await site.ask("what is a shoal?"))[0] == "failed"
    await site.cache.settled()
    assert (await site.ask("what is a shoal?"))[0] == "miss"
    assert (await site.cache.stats()).is_ready
    assert warnings_of(caplog) == ["WARNING qdrant", "INFO qdrant"]
    await site.cache.close()


async def test_a_collection_of_other_dimensions_stops_the_start(client: redis.Redis) -> None:
    site = Site(client)
    shelf = Shelf()
    shelf.collections["answers"] = (collection(dimensions=SIZE * 2), {})
    site.cache._index = MemoryIndex(shelf, collection())
    with pytest.raises(DimensionsDiffer):
        await site.cache.start()
    await site.cache.close()


async def test_a_caller_that_goes_away_is_no_failure(site: Site) -> None:
    site.index.may_answer.clear()
    looking = asyncio.create_task(site.cache.look_up(question()))
    storing = asyncio.create_task(site.cache.store(question(), None, ANSWER))
    while len(site.index.calls) < 3:
        await site.records.count()
    for task in (looking, storing):
        task.cancel()
    await asyncio.wait([looking, storing])
    assert looking.cancelled()
    assert storing.cancelled()
    site.index.may_answer.set()
    assert site.metrics.failures == []
    assert (await site.ask("what is a shoal?"))[0] == "exact"


async def test_no_more_than_so_many_are_kept_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORES_MAX", 2)
    site.index.may_answer.clear()
    first = [asyncio.create_task(site.keep(f"question {n}")) for n in range(2)]
    while len(site.index.calls) < 3:
        await site.records.count()
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
    site = Site(client, budget_s=5.0)
    site.cache._index = EdgeIndex(tmp_path / "answers", collection(), site.clock)
    await site.cache.start()
    await site.keep("what is a shoal?")
    assert await site.ask("a shoal is what") == ("semantic", ANSWER.text)
    assert await site.ask("a shoal is what", scope="other") == ("miss", "")
    site.clock.jump(TTL_S)
    await site.cache.sweep()
    assert await site.cache._index.count() == 0
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
