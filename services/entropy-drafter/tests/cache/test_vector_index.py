"""What every VectorIndex keeps to, run over the folder in the process and over a server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import numpy as np
import pytest

from shoal_entropy_drafter.cache.base import VectorIndex
from shoal_entropy_drafter.errors import CacheStoreAway, DimensionsDiffer, EmbeddingModelDiffers

from .conftest import SIZE, Opened, collection, point, unit

NEAR = 2e-3


@pytest.fixture
async def index(opened: Opened) -> AsyncIterator[VectorIndex]:
    made = opened(collection())
    await made.start()
    yield made
    await made.close()


async def test_the_nearest_come_first_with_their_cosines(index: VectorIndex) -> None:
    same, near, far, opposite = unit(1), unit(0.9, 0.4359), unit(0.2, 0.9798), unit(-1)
    points = [point(vector) for vector in (far, opposite, same, near)]
    for one in points:
        await index.upsert(one)
    found = await index.search(unit(1), "scope", 4)
    wanted = [(points[2].id, 1.0), (points[3].id, 0.9), (points[0].id, 0.2), (points[1].id, -1.0)]
    assert [match.id for match in found] == [one for one, _ in wanted]
    cosines = [similarity for _, similarity in wanted]
    assert [match.similarity for match in found] == pytest.approx(cosines, abs=NEAR)
    assert await index.search(unit(1), "scope", 2) == found[:2]


async def test_the_length_of_a_vector_does_not_matter(index: VectorIndex) -> None:
    await index.upsert(point(unit(1, 1) * 7))
    (found,) = await index.search(unit(1, 1) * 0.1, "scope", 1, similarity_min=0.99)
    assert found.similarity == pytest.approx(1.0, abs=NEAR)


async def test_only_those_that_are_similar_enough_are_found(index: VectorIndex) -> None:
    at, below = point(unit(0.97, 0.2431)), point(unit(0.93, 0.3676))
    await index.upsert(at)
    await index.upsert(below)
    assert [m.id for m in await index.search(unit(1), "scope", 4, 0.95)] == [at.id]
    assert len(await index.search(unit(1), "scope", 4, 0.9)) == 2


async def test_no_other_scope_is_seen(index: VectorIndex) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    scopes = ["a", "ab", "a/", "A", "", "a ", "b/1", "\u00e4"]
    owner = {}
    for _ in range(60):
        scope = scopes[rng.integers(len(scopes))]
        # All alike, so that each would be a match everywhere.
        one = point(unit(1, *(rng.standard_normal(SIZE - 1) * 0.001)), scope=scope)
        owner[one.id] = scope
        await index.upsert(one)
    for scope in [*scopes, "c", "a/b"]:
        for least in (-1.0, 0.95):
            found = await index.search(unit(1), scope, 200, least)
            assert {match.id for match in found} == {i for i, s in owner.items() if s == scope}


async def test_the_same_id_twice_is_one_point_the_later(index: VectorIndex) -> None:
    first = point(unit(1), scope="old", expires_at=100)
    await index.upsert(first)
    await index.upsert(point(unit(0, 1), scope="new", expires_at=200, id=first.id))
    assert await index.count() == 1
    assert await index.search(unit(1), "old", 4) == []
    assert await index.search(unit(0, 1), "old", 4, 0.9) == []
    (found,) = await index.search(unit(0, 1), "new", 4, 0.9)
    assert found.id == first.id
    assert await index.delete_where(expired_at=150) == 0


async def test_deleted_points_are_gone(index: VectorIndex) -> None:
    points = [point(unit(1, number / 100)) for number in range(80)]
    for one in points:
        await index.upsert(one)
    await index.delete([one.id for one in points[:70]])
    await index.delete([points[0].id, point(unit(1)).id])
    await index.delete([])
    assert await index.count() == 10
    found = await index.search(unit(1), "scope", 100)
    assert {match.id for match in found} == {one.id for one in points[70:]}


async def test_points_expire_at_their_second(index: VectorIndex) -> None:
    for expires_at in (99, 100, 101):
        await index.upsert(point(unit(1), expires_at=expires_at))
    assert await index.delete_where(expired_at=100) == 2
    assert await index.count() == 1
    assert await index.delete_where(expired_at=100) == 0


async def test_tenants_and_models_are_deleted_apart(index: VectorIndex) -> None:
    for tenant in ("a", "b"):
        for model in ("x", "y"):
            for expires_at in (100, 200):
                await index.upsert(point(unit(1), "s", tenant, model, expires_at))
    assert await index.delete_where(tenant="a", model="x", expired_at=100) == 1
    assert await index.delete_where(tenant="a", model="x") == 1
    assert await index.delete_where(tenant="c") == 0
    assert await index.delete_where(model="x") == 2
    assert await index.delete_where(tenant="a") == 2
    assert await index.count() == 2
    assert await index.delete_where() == 2
    assert await index.count() == 0


async def test_many_at_once_do_not_disturb_one_another(index: VectorIndex) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    vectors = np.random.default_rng(seed).standard_normal((40, SIZE)).astype(np.float32)

    async def live(number: int) -> None:
        one = point(vectors[number], scope=f"s{number % 5}")
        await index.upsert(one)
        found = await index.search(one.vector, one.scope, 1, 0.999)
        assert [match.id for match in found] == [one.id]
        if number % 2:
            await index.delete([one.id])

    await asyncio.gather(*(live(number) for number in range(40)))
    assert await index.count() == 20


async def test_points_outlive_the_process_that_made_them(opened: Opened) -> None:
    first = opened(collection())
    await first.start()
    kept = point(unit(1, 2))
    await first.upsert(kept)
    await first.tidy()
    await first.close()
    second = opened(collection())
    await second.start()
    await second.start()
    assert [m.id for m in await second.search(kept.vector, "scope", 4, 0.95)] == [kept.id]
    await second.close()
    await second.close()


async def test_vectors_of_another_length_are_refused(opened: Opened) -> None:
    first = opened(collection())
    await first.start()
    await first.upsert(point(unit(1)))
    await first.close()
    other = opened(collection(dimensions=SIZE * 2))
    with pytest.raises(DimensionsDiffer) as caught:
        await other.start()
    assert not other.is_started
    for word in ("16", "32", "embedding_dimensions", "qdrant_collection"):
        assert word in str(caught.value)
    await other.close()
    again = opened(collection())
    await again.start()
    assert await again.count() == 1
    await again.close()


async def test_vectors_of_another_model_are_refused(opened: Opened) -> None:
    first = opened(collection())
    await first.start()
    await first.close()
    other = opened(collection(model="text-embedding-3-small"))
    with pytest.raises(EmbeddingModelDiffers, match="embedding_model"):
        await other.start()
    await other.close()


async def test_a_collection_of_another_name_is_made(opened: Opened) -> None:
    one, other = opened(collection()), opened(collection(dimensions=SIZE * 2, name="others"))
    await one.start()
    await other.start()
    await one.upsert(point(unit(1)))
    assert await other.count() == 0
    await one.close()
    await other.close()


async def test_after_closing_nothing_answers(opened: Opened) -> None:
    index = opened(collection())
    await index.start()
    await index.close()
    assert not index.is_started
    with pytest.raises(CacheStoreAway):
        await index.count()
