"""What only the driver of a server does: making the collection, outages, deadlines."""

from __future__ import annotations

import asyncio

import pytest

from shoal_entropy_drafter.cache.server import ServerIndex
from shoal_entropy_drafter.errors import CacheStoreAway

from .conftest import collection, point, unit
from .fake_qdrant import FakeQdrant

# Long for an answer at once on a busy machine, short for none.
HANG_S = 0.5


async def started(qdrant: FakeQdrant, timeout_s: float = 5.0) -> ServerIndex:
    index = ServerIndex(qdrant.url, "", collection(), timeout_s)
    await index.start()
    return index


async def test_the_collection_is_laid_out_for_many_scopes(qdrant: FakeQdrant) -> None:
    index = await started(qdrant)
    made = qdrant.collections["answers"]
    assert made["body"]["vectors"] == {"size": 16, "distance": "Cosine", "datatype": "float16"}
    assert made["body"]["hnsw_config"] == {"m": 0, "payload_m": 16}
    kinds = {name: str(told["data_type"]) for name, told in made["schema"].items()}
    assert kinds == {
        "scope": "keyword", "tenant": "keyword", "model": "keyword", "expires_at": "integer",
    }  # fmt: skip
    await index.close()


async def test_two_that_make_the_collection_at_once_share_it(qdrant: FakeQdrant) -> None:
    indexes = [ServerIndex(qdrant.url, "", collection()) for _ in range(4)]
    await asyncio.gather(*(index.start() for index in indexes))
    await indexes[0].upsert(point(unit(1)))
    assert await indexes[3].count() == 1
    for index in indexes:
        await index.close()


async def test_the_key_goes_with_every_request(qdrant: FakeQdrant) -> None:
    index = ServerIndex(qdrant.url, "secret", collection())
    await index.start()
    await index.count()
    assert qdrant.keys == {"secret"}
    await index.close()


async def test_a_server_that_is_away_is_told_without_its_address(qdrant: FakeQdrant) -> None:
    index = ServerIndex("http://127.0.0.1:9", "", collection())
    with pytest.raises(CacheStoreAway, match="ConnectError"):
        await index.start()
    assert not index.is_started
    await index.close()


async def test_a_server_that_refuses_is_away(qdrant: FakeQdrant) -> None:
    index = await started(qdrant)
    for status in (403, 429, 500, 503):
        qdrant.status = status
        with pytest.raises(CacheStoreAway, match=f"HTTP {status}"):
            await index.search(unit(1), "scope", 4)
    qdrant.status = 0
    assert await index.search(unit(1), "scope", 4) == []
    await index.close()


async def test_a_server_that_hangs_is_away(qdrant: FakeQdrant) -> None:
    index = await started(qdrant, HANG_S)
    qdrant.may_answer.clear()
    with pytest.raises(CacheStoreAway, match=r"no answer in 0\.5 s"):
        await index.count()
    qdrant.may_answer.set()
    assert await index.count() == 0
    await index.close()


async def test_a_collection_that_was_dropped_is_made_again(qdrant: FakeQdrant) -> None:
    index = await started(qdrant)
    await index.upsert(point(unit(1)))
    qdrant.collections.clear()
    with pytest.raises(CacheStoreAway, match="HTTP 404"):
        await index.search(unit(1), "scope", 4)
    assert not index.is_started
    await index.start()
    await index.upsert(point(unit(1)))
    assert await index.count() == 1
    await index.close()


async def test_a_collection_that_tells_no_model_is_taken(qdrant: FakeQdrant) -> None:
    """Servers before 1.16 keep no metadata."""
    index = await started(qdrant)
    await index.close()
    del qdrant.collections["answers"]["body"]["metadata"]
    again = await started(qdrant)
    assert again.is_started
    await again.close()
