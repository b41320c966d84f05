"""What happens when a store is away, slow, or another than it was."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from redis import asyncio as redis

from shoal_common.redis_client import connect
from shoal_common.testing.redis import start_redis
from shoal_common.testing.waiting import eventually
from shoal_entropy_drafter.cache.base import Store
from shoal_entropy_drafter.cache.outage import FAILURES_MAX, RETRY_AFTER_S
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
from .site import ANSWER, Site

# Long for an answer at once on a busy machine, short for none.
HANG_S = 0.25


@pytest.fixture
async def site(client: redis.Redis) -> AsyncIterator[Site]:
    made = Site(client)
    await made.cache.start()
    yield made
    made.index.may_answer.set()
    await made.cache.close()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Which outages were told to begin and end."""
    told = [vars(record) for record in caplog.records if "store" in vars(record)]
    return [f"{record['levelname']} {record['store']}" for record in told]


async def test_without_redis_requests_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = start_redis(tmp_path)
    client = connect(server.url)
    assert client is not None
    site = Site(client)
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
    site = Site(client, budget_s=HANG_S)
    await site.cache.start()
    embed = site.embedder.embed

    async def slow(texts: Sequence[str]) -> Embedded:
        site.clock.jump(2 * HANG_S)
        if in_look_up:
            await asyncio.Event().wait()
        return await embed(texts)

    site.embedder.embed = slow  # type: ignore[method-assign]
    for number in range(FAILURES_MAX + 2):
        in_look_up = True
        assert (await site.ask(f"question {number}"))[0] == "failed"
        in_look_up = False
        # Nobody waits for this one, so it succeeds.
        assert await site.keep(f"question {number}")
        site.clock.jump(RETRY_AFTER_S)
    assert warnings_of(caplog) == ["WARNING embedder"]
    assert "cache_timeout_ms" in vars(caplog.records[0])["problem"]
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
    site = Site(client, budget_s=HANG_S)
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
    shelf = Shelf()
    shelf.collections["answers"] = (collection(dimensions=SIZE * 2), {})
    site = Site(client, index=MemoryIndex(shelf, collection()))
    with pytest.raises(DimensionsDiffer):
        await site.cache.start()
    await site.cache.close()


async def test_a_caller_that_goes_away_is_no_failure(site: Site) -> None:
    site.index.may_answer.clear()
    looking = asyncio.create_task(site.cache.look_up(question("two birds")))
    storing = asyncio.create_task(site.cache.store(question(), None, ANSWER))
    await eventually(lambda: {"search", "upsert"} <= set(site.index.calls))
    for task in (looking, storing):
        task.cancel()
    await asyncio.wait([looking, storing])
    assert looking.cancelled()
    assert storing.cancelled()
    site.index.may_answer.set()
    assert site.metrics.failures == []
    assert (await site.ask("what is a shoal?"))[0] == "exact"
